package llamacpp

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/hybridgroup/yzma/pkg/loader"
	"github.com/jupiterrider/ffi"

	"rbee"
)

// library is llama.cpp in this process. Shared libraries, their backends and
// the callbacks into Go can't be unloaded, so there is one for the life of the
// process; it is the one piece of state that belongs to no engine.
type library struct {
	dir  string
	log  logSink
	next atomic.Uintptr // numbers that stand for Go values in C

	loading  sync.Mutex // one load at a time: the log says why a load failed
	progress uintptr    // C function that reports the progress of a load
	loads    sync.Map   // number of a load → func(float32) bool

	abort    uintptr // C function that asks whether to give up a batch
	setAbort ffi.Fun
}

// process holds the library once it is open.
var process struct {
	mu  sync.Mutex
	lib *library
}

// open loads the libraries of a directory, once for the process.
func open(dir string, logger *slog.Logger) (*library, error) {
	process.mu.Lock()
	defer process.mu.Unlock()
	if lib := process.lib; lib != nil {
		if lib.dir != dir {
			return nil, rbee.Errorf(rbee.CodeInvalidRequest,
				"cannot load the engine from %s: this process already has the one from %s", dir, lib.dir)
		}
		return lib, nil
	}
	refuse := func(err error) (*library, error) {
		return nil, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot load the engine from %s", dir).
			With("reason", err.Error()).Suggest("run 'rbee engine install'").WithCause(err)
	}
	if _, err := os.Stat(loader.GetLibraryFilename(dir, "llama")); err != nil {
		return refuse(err)
	}
	if err := llama.Load(dir); err != nil {
		return refuse(err)
	}
	native, err := loader.LoadLibrary(dir, "llama")
	if err != nil {
		return refuse(err)
	}
	lib := &library{dir: dir}
	// The binding's own call makes a new callback each time, and there is a limit of them.
	lib.setAbort, err = native.Prep("llama_set_abort_callback",
		&ffi.TypeVoid, &ffi.TypePointer, &ffi.TypePointer, &ffi.TypePointer)
	if err != nil {
		return refuse(err)
	}
	if lib.abort, err = strlen(native); err != nil {
		return refuse(err)
	}
	lib.makeCallbacks()
	lib.log.begin(logger)
	llama.Init()
	process.lib = lib
	return lib, nil
}

func (l *library) makeCallbacks() {
	var params llama.ModelParams
	params.SetProgressCallback(func(fraction float32, id uintptr) uint8 {
		report, ok := l.loads.Load(id)
		if !ok || report.(func(float32) bool)(fraction) {
			return 1
		}
		return 0
	})
	l.progress = params.ProgressCallback
	llama.LogSet(purego.NewCallback(func(level int32, text *byte, _ uintptr) uintptr {
		l.log.take(level, text)
		return 0
	}))
}

// follow makes report the one to hear of the progress of the load with the
// number it returns; false from it cancels the load.
func (l *library) follow(report func(float32) bool) (id uintptr, done func()) {
	id = l.next.Add(1)
	l.loads.Store(id, report)
	return id, func() { l.loads.Delete(id) }
}

// watchAbort has llama.cpp ask, before each node of a batch's graph, whether to give
// the batch up: whether a text of C is not empty. To ask a function in Go would take
// a microsecond each time, and keep Go's scheduler awake. The text must live as long as
// the context.
func (l *library) watchAbort(c llama.Context, text *uint64) {
	l.setAbort.Call(nil, unsafe.Pointer(&c), unsafe.Pointer(&l.abort), unsafe.Pointer(&text))
}

// strlen is where the C library has it, on which llama.cpp's depends.
func strlen(native loader.Lib) (uintptr, error) {
	prepare := native.Prep
	if runtime.GOOS == "windows" { // which looks in one library only
		c, err := ffi.Load("ucrtbase.dll")
		if err != nil {
			return 0, err
		}
		prepare = c.Prep
	}
	f, err := prepare("strlen", &ffi.TypePointer, &ffi.TypePointer)
	return f.Addr, err
}

// explain makes an error of what llama.cpp last logged.
func (l *library) explain(what string, backend rbee.Backend) *rbee.Error {
	reason := l.log.reason()
	low := strings.ToLower(reason)
	for _, sign := range []string{"alloc", "out of memory", "buffer"} {
		if !strings.Contains(low, sign) {
			continue
		}
		code := rbee.CodeVRAMExhausted
		if backend == rbee.BackendCPU {
			code = rbee.CodeInsufficientRAM
		}
		return rbee.Errorf(code, "cannot %s: %s", what, reason).
			Suggest("try a smaller quantisation, or a smaller --context")
	}
	if reason == "" {
		reason = "the engine gave no reason"
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot %s: %s", what, reason).
		Suggest("copy the file again, or choose another model")
}

// Levels of llama.cpp's log (ggml.h, enum ggml_log_level).
const (
	logError    = 4
	logContinue = 5
)

// logSink turns llama.cpp's log, which comes in fragments from any thread,
// into lines, and remembers the errors of the load that runs.
type logSink struct {
	mu     sync.Mutex
	logger *slog.Logger
	level  int32
	line   strings.Builder
	errors []string
}

// begin makes a logger the one that gets the lines and forgets old errors.
func (s *logSink) begin(logger *slog.Logger) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logger, s.errors = logger, nil
}

func (s *logSink) take(level int32, text *byte) {
	if text == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if level != logContinue {
		s.level = level
	}
	for p := text; *p != 0; p = (*byte)(unsafe.Add(unsafe.Pointer(p), 1)) {
		if *p != '\n' {
			s.line.WriteByte(*p)
			continue
		}
		s.flush()
	}
}

func (s *logSink) flush() {
	line := strings.TrimSpace(s.line.String())
	s.line.Reset()
	if line == "" {
		return
	}
	if s.level == logError {
		s.errors = append(s.errors, line)
	}
	s.logger.Log(context.Background(), slog.LevelDebug, line)
}

// reason is the first error since begin, without the names of C functions: the
// ones after it say that those above it failed, too.
func (s *logSink) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errors) == 0 {
		return ""
	}
	_, text, found := strings.Cut(s.errors[0], ": ")
	if !found {
		return s.errors[0]
	}
	return strings.TrimPrefix(text, "error loading model: ")
}
