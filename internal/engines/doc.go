// Package engines keeps the shared libraries of llama.cpp on disk: it fetches
// the pinned package with the npm client, checks it, unpacks it, repairs what
// is damaged, and takes over the libraries of an own build.
//
// Below the directory of a Store there is one directory with libraries, named
// by the version of llama.cpp. The package of the CPU puts the base there; an
// accelerator's package adds one library beside it, since ggml loads every
// libggml-*.so that it finds next to itself. Each package, or the own build,
// leaves a manifest with the sizes and digests of its files:
//
//	engines/.lock
//	engines/llama.cpp-v0.5.0/manifest-cpu.json
//	engines/llama.cpp-v0.5.0/libllama.v0.5.0.so, libllama.so -> libllama.v0.5.0.so, ...
//	engines/llama.cpp-v0.5.0/manifest-cuda.json
//	engines/llama.cpp-v0.5.0/libggml-cuda.so
//
// A file gets its final name after it is complete on disk, and the manifest is
// the last one, so a package without a manifest is not installed. Libraries in
// use by a worker are replaced, never written to.
//
// The package must not load a library: it runs in processes that never do. It
// names no registry; the npm client's own configuration decides.
package engines
