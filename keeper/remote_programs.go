package keeper

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"rbee"
	"rbee/internal/daemon"
)

// remotePrograms are those that a machine with a hive needs.
func remotePrograms() []string { return []string{"rbee-hive", "llm-worker-rbee", "rbee"} }

// platforms are those that the programs are made for, by what uname calls them.
func platforms() map[string]string {
	return map[string]string{
		"Linux x86_64": "linux/amd64", "Linux amd64": "linux/amd64", "Linux aarch64": "linux/arm64", "Linux arm64": "linux/arm64",
		"Darwin x86_64": "darwin/amd64", "Darwin arm64": "darwin/arm64",
	}
}

// platform is what the far side is, such as linux/amd64.
func (r *remote) platform() (string, error) {
	name := strings.TrimSpace(r.facts["os"] + " " + r.facts["arch"])
	if p := platforms()[name]; p != "" {
		return p, nil
	}
	if name == "" {
		name = "a machine without uname"
	}
	return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot install a hive on %s: it is %s", r.host, name).
		Suggest("rbee runs on Linux and macOS, on amd64 and arm64")
}

// program is one that is to be on the far side.
type program struct {
	name, path, digest string
	size               int64
	file               *os.File
	there, staged      bool // on the far side: in its place, beside it
}

// localPrograms finds the programs for a platform: in dir, or beside this one.
// The caller closes their files.
func localPrograms(host, platform, dir string) (all []*program, err error) {
	defer func() {
		if err != nil {
			closePrograms(all)
		}
	}()
	elsewhere := rbee.Errorf(rbee.CodeInvalidRequest, "cannot install on %s: it is %s, and the programs here are for %s",
		host, platform, runtime.GOOS+"/"+runtime.GOARCH).
		Suggest("build them for it ('GOOS=%s GOARCH=%s go build -o DIR ./cmd/...'), and name them with --from DIR",
			path.Dir(platform), path.Base(platform))
	if dir == "" && platform != runtime.GOOS+"/"+runtime.GOARCH {
		return nil, elsewhere
	}
	for _, name := range remotePrograms() {
		p := &program{name: name}
		switch {
		case dir != "":
			p.path = filepath.Join(dir, name)
		case name == "rbee":
			p.path, err = os.Executable()
		default:
			p.path, err = daemon.Program(name)
		}
		if err != nil {
			return all, err
		}
		if err := p.open(platform); err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, nil
}

func closePrograms(all []*program) {
	for _, p := range all {
		_ = p.file.Close()
	}
}

// open opens the file of a program, checks its platform and digests it.
func (p *program) open(platform string) (err error) {
	if p.file, err = os.Open(p.path); err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the program %s: %w", p.name, err).
			Suggest("name a directory that has %s with --from", strings.Join(remotePrograms(), ", "))
	}
	defer func() {
		if err != nil {
			_ = p.file.Close()
		}
	}()
	info, err := buildinfo.Read(p.file)
	if err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: it is no program of rbee", p.path).WithCause(err).
			Suggest("name the directory of the programs with --from")
	}
	built := map[string]string{}
	for _, s := range info.Settings {
		built[s.Key] = s.Value
	}
	if is := built["GOOS"] + "/" + built["GOARCH"]; is != platform {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: it is for %s, and not for %s", p.path, is, platform).
			Suggest("name programs for %s with --from", platform)
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if p.size, err = io.Copy(h, p.file); err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the program %s: %w", p.name, err)
	}
	p.digest = hex.EncodeToString(h.Sum(nil))
	return nil
}

// digestOf is a function of the shell that prints the digest of a file.
const digestOf = `digest() { if command -v sha256sum >/dev/null; then sha256sum <"$1"; ` +
	`elif command -v shasum >/dev/null; then shasum -a 256 <"$1"; else openssl dgst -sha256 -r <"$1"; fi; }; `

// comparePrograms looks which programs are on the far side already. Its
// arguments are the directory, then name and digest of each.
const compareScript = digestOf + `d="$1"; shift; while [ $# -gt 1 ]; do ` +
	`for f in "$d/$1" "$d/.$1.new-$2"; do if [ -f "$f" ]; then case "$(digest "$f")" in "$2"*) ` +
	`case "$f" in *.new-*) echo "rbee:staged-$1=yes";; *) echo "rbee:there-$1=yes";; esac;; esac; fi; done; ` +
	`shift 2; done`

func (r *remote) comparePrograms(ctx context.Context, dir string, all []*program) error {
	args := []string{dir}
	for _, p := range all {
		args = append(args, p.name, p.digest)
	}
	out, err := r.run(ctx, nil, compareScript, args...)
	if err != nil {
		return r.refuse("cannot look for programs on "+r.host, err)
	}
	found := told(out)
	for _, p := range all {
		p.there, p.staged = found["there-"+p.name] != "", found["staged-"+p.name] != ""
	}
	return nil
}

// receiveScript takes a program from its standard input and puts it beside its
// place when the digest is right. One that is cut off leaves nothing: the input
// ends then, and the digest is wrong. What a crash of the machine left goes
// after a day.
const receiveScript = digestOf + `t="$1/.$2.part-$$"; clean() { rm -f "$t"; }; trap clean EXIT; trap "exit 1" HUP INT TERM; ` +
	`umask 022; mkdir -p "$1" && find "$1" -maxdepth 1 -name ".$2.part-*" -mtime +0 -exec rm -f {} + && cat >"$t" || exit 3; ` +
	`case "$(digest "$t")" in "$3"*) ;; *) exit 4;; esac; ` +
	`chmod 755 "$t" && { sync "$t" 2>/dev/null || :; } && mv -f "$t" "$1/.$2.new-$3"`

// exitDamaged is how receiveScript ends when what came is not what was sent.
const exitDamaged = 4

// sendProgram copies a program beside its place on the far side.
func (a *app) sendProgram(ctx context.Context, r *remote, dir string, p *program, phase int) error {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	b := a.out.bar(phase, "copying "+p.name, "bytes")
	done := int64(0)
	in := &countedReader{in: p.file, tell: func(n int64) {
		done += n
		b.set(done, p.size)
	}}
	_, err := r.run(ctx, in, receiveScript, dir, p.name, p.digest)
	b.clear()
	var f *scriptError
	if errors.As(err, &f) && f.code == exitDamaged {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "%s arrived damaged on %s", p.name, r.host).Suggest("run the command again")
	}
	if err != nil {
		return r.refuse("cannot copy "+p.name+" to "+dir+" on "+r.host, err)
	}
	p.staged = true
	return nil
}

// countedReader tells how many bytes each read brought.
type countedReader struct {
	in   io.Reader
	tell func(int64)
}

// Read implements io.Reader.
func (c *countedReader) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.tell(int64(n))
	return n, err
}

// switchScript gives the programs their names. It is not to be stopped on the
// way, and what somebody else installs at the same moment is as good.
const switchScript = `trap "" HUP INT TERM PIPE; d="$1"; shift; while [ $# -gt 1 ]; do ` +
	`if [ -f "$d/.$1.new-$2" ]; then mv -f "$d/.$1.new-$2" "$d/$1" || exit 3; fi; rm -f "$d/.$1".new-*; shift 2; done`

// placePrograms brings the programs to the far side, if they are not there, and
// returns which were not. Until all of them are there, whole and proven to run, the
// old ones stay.
func (a *app) placePrograms(ctx context.Context, r *remote, dir string, all []*program, phase int) ([]string, error) {
	if err := r.comparePrograms(ctx, dir, all); err != nil {
		return nil, err
	}
	fresh := []string{}
	args := []string{dir}
	for _, p := range all {
		args = append(args, p.name, p.digest)
		if p.there {
			continue
		}
		if !p.staged {
			if err := a.sendProgram(ctx, r, dir, p, phase); err != nil {
				return nil, err
			}
		}
		fresh = append(fresh, p.name)
	}
	for _, p := range all {
		if p.name != "rbee" {
			continue
		}
		at := path.Join(dir, p.name)
		if !p.there {
			at = path.Join(dir, "."+p.name+".new-"+p.digest)
		}
		if err := r.tryProgram(ctx, at); err != nil {
			return nil, err
		}
	}
	if len(fresh) == 0 {
		return fresh, nil
	}
	if _, err := r.run(ctx, nil, switchScript, args...); err != nil {
		return nil, r.refuse("cannot put the programs into "+dir+" on "+r.host, err)
	}
	return fresh, nil
}

// tryProgram checks that an rbee runs there, and is of our version.
func (r *remote) tryProgram(ctx context.Context, at string) error {
	out, err := r.run(ctx, nil, `exec "$@"`, at, "version", "--json")
	if err != nil {
		return r.refuse("cannot run "+at+" on "+r.host, err)
	}
	var v versionReport
	if err := json.Unmarshal([]byte(jsonLine(out, `"version"`)), &v); err != nil {
		return rbee.Errorf(rbee.CodeInternalError, "cannot understand what %s says on %s", at, r.host).WithCause(err).Suggest("look at it with 'ssh %s'", r.host)
	}
	if v.APIVersion != rbee.APIVersion || release(v.Version) != release(rbee.Version) {
		return rbee.Errorf(rbee.CodeVersionMismatch, "versions differ: the programs for %s are %s (API %s), this rbee is %s (API %s)",
			r.host, v.Version, v.APIVersion, rbee.Version, rbee.APIVersion).
			With("hive_version", v.Version).With("keeper_version", rbee.Version).
			Suggest("name programs of the same version with --from")
	}
	return nil
}

// jsonLine is the last line with an object that has a word in it: a profile of
// a shell may print lines of its own.
func jsonLine(output, word string) string {
	found := ""
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "{") && strings.Contains(line, word) {
			found = line
		}
	}
	return found
}
