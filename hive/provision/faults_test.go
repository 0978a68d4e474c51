package provision_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/internal/hub/hubtest"
)

const fileName = "noise.Q8_0.gguf"

// faultCase is a fault of the hub and how a pull ends that meets it.
type faultCase struct {
	name  string
	path  string // of the file that it is of, "" for the listing
	fault hubtest.Fault
	code  rbee.Code // "" for success
	says  string    // in the message, or in a note
	large bool      // a file that is fetched in parallel ranges
	leave bool      // who waits leaves when the hub has been asked
}

// once makes a fault that happens one time.
func once(f hubtest.Fault) hubtest.Fault { f.Times = 1; return f }

const (
	gone    = "127.0.0.1:1" // where nobody listens
	another = 64
)

// anyAnswer are the faults that an answer to anything may have.
func anyAnswer() []faultCase {
	failed, missing := rbee.CodeDownloadFailed, rbee.CodeModelNotFound
	status := func(n int) hubtest.Fault { return hubtest.Fault{Kind: hubtest.Status, Status: n} }
	hasty := status(429)
	hasty.RetryAfter = "1"
	gated := status(403)
	gated.Code = "GatedRepo"
	return []faultCase{
		{name: "429 with a time, once", fault: once(hasty)},
		{name: "500 once", fault: once(status(500))},
		{name: "503 once", fault: once(status(503))},
		{name: "503 always", fault: status(503), code: failed, says: "503"},
		{name: "429 always", fault: status(429), code: failed, says: "429"},
		{name: "401", fault: hubtest.Fault{Kind: hubtest.Status, Status: 401, At: hubtest.Hub}, code: missing, says: "not there, or needs a token"},
		{name: "403", fault: hubtest.Fault{Kind: hubtest.Status, Status: 403, At: hubtest.Hub}, code: failed, says: "forbids"},
		{name: "403 of a gated repository", fault: hubtest.Fault{Kind: hubtest.Status, Status: 403, Code: "GatedRepo", At: hubtest.Hub}, code: failed, says: "terms"},
		{name: "404", fault: hubtest.Fault{Kind: hubtest.Status, Status: 404, At: hubtest.Hub}, code: missing},
		{name: "418", fault: hubtest.Fault{Kind: hubtest.Status, Status: 418, At: hubtest.Hub}, code: failed, says: "418"},
		{name: "a redirect to itself", fault: hubtest.Fault{Kind: hubtest.Redirect}, code: failed, says: "redirects"},
		{name: "a redirect to no address", fault: hubtest.Fault{Kind: hubtest.Redirect, To: "file:///etc/passwd"}, code: failed, says: "redirects"},
		{name: "a redirect to nowhere", fault: hubtest.Fault{Kind: hubtest.Redirect, To: "http://" + gone + "/x"}, code: failed, says: "nothing listens"},
		{name: "slow", fault: hubtest.Fault{Kind: hubtest.Slow, Wait: 50 * time.Millisecond}},
		{name: "throttled", fault: hubtest.Fault{Kind: hubtest.Throttle, Bytes: 100_000}},
		{name: "cut once", fault: once(hubtest.Fault{Kind: hubtest.Cut, After: 100})},
		{name: "cut at once, always", fault: hubtest.Fault{Kind: hubtest.Cut}, code: failed, says: "was cut"},
		{name: "stalled, left alone", fault: hubtest.Fault{Kind: hubtest.Stall, After: 100}, code: rbee.CodeRequestCanceled, leave: true},
	}
}

func listingFaults() []faultCase {
	failed := rbee.CodeDownloadFailed
	return append(anyAnswer(), []faultCase{
		{name: "no JSON", fault: hubtest.Fault{Kind: hubtest.NotJSON}, code: failed, says: "no JSON"},
		{name: "truncated", fault: hubtest.Fault{Kind: hubtest.Truncated}, code: failed, says: "no JSON"},
		{name: "huge", fault: hubtest.Fault{Kind: hubtest.Huge, Bytes: 64 << 20}, code: failed, says: "more than"},
		{name: "long", fault: hubtest.Fault{Kind: hubtest.Huge, Bytes: 1 << 20}},
	}...)
}

func fileFaults() []faultCase {
	failed, damaged := rbee.CodeDownloadFailed, rbee.CodeChecksumMismatch
	return append(anyAnswer(), []faultCase{
		{name: "403 of the store of files", fault: hubtest.Fault{Kind: hubtest.Status, Status: 403}, code: failed, says: "403"},
		{name: "404 of the store of files, once", fault: once(hubtest.Fault{Kind: hubtest.Status, Status: 404})},
		{name: "416", fault: hubtest.Fault{Kind: hubtest.Status, Status: 416}, code: failed, says: "do not stay"},
		{name: "416 once", fault: once(hubtest.Fault{Kind: hubtest.Status, Status: 416}), says: "changed at the hub"},
		{name: "cut after some bytes, always", fault: hubtest.Fault{Kind: hubtest.Cut, After: 5000}, says: "was cut"},
		{name: "cut in all ranges", fault: hubtest.Fault{Kind: hubtest.Cut, After: 1 << 20}, large: true},
		{name: "stalled once", fault: once(hubtest.Fault{Kind: hubtest.Stall, After: 5000}), says: "no byte came"},
		{name: "stalled always", fault: hubtest.Fault{Kind: hubtest.Stall}, code: failed, says: "no byte came"},
		{name: "a wrong byte once", fault: once(hubtest.Fault{Kind: hubtest.Corrupt, After: 9000}), code: damaged, says: "digest"},
		{name: "a wrong byte always", fault: hubtest.Fault{Kind: hubtest.Corrupt, After: 9000}, code: damaged, says: "digest"},
		{name: "changed once", fault: once(hubtest.Fault{Kind: hubtest.Changed, Skip: 1}), code: rbee.CodeInvalidRequest, large: true, says: "(" + fileName + ")"},
		{name: "no ranges", fault: hubtest.Fault{Kind: hubtest.NoRanges}},
		{name: "no ranges of a large file", fault: hubtest.Fault{Kind: hubtest.NoRanges}, large: true, says: "no parts of a file"},
		{name: "expired once", fault: once(hubtest.Fault{Kind: hubtest.Expired})},
		{name: "expired in between", fault: hubtest.Fault{Kind: hubtest.Expired, Skip: 1, Times: 2}, large: true},
		{name: "expired always", fault: hubtest.Fault{Kind: hubtest.Expired}, code: failed, says: "403"},
		{name: "bound to a range", fault: hubtest.Fault{Kind: hubtest.Bound}, large: true},
		{name: "short once", fault: once(hubtest.Fault{Kind: hubtest.Short, After: 5000}), says: "before the last byte"},
		{name: "short always", fault: hubtest.Fault{Kind: hubtest.Short, After: 5000}},
		{name: "empty always", fault: hubtest.Fault{Kind: hubtest.Short}, code: failed, says: "before the last byte"},
		{name: "longer", fault: hubtest.Fault{Kind: hubtest.Longer, Bytes: 5000}},
		{name: "longer in all ranges", fault: hubtest.Fault{Kind: hubtest.Longer, Bytes: 5000}, large: true},
		{name: "another beginning once", fault: once(hubtest.Fault{Kind: hubtest.WrongBegin, Bytes: another})},
		{name: "another beginning always", fault: hubtest.Fault{Kind: hubtest.WrongBegin, Bytes: another}, code: failed, says: "other bytes"},
		{name: "another length in the answer", fault: hubtest.Fault{Kind: hubtest.WrongTotal, Bytes: another}, code: failed, says: "do not stay"},
		{name: "another digest", fault: hubtest.Fault{Kind: hubtest.WrongDigest}, code: damaged, says: "digest"},
		{name: "an old digest in the listing", fault: hubtest.Fault{Kind: hubtest.StaleDigest}, code: failed, says: "do not stay"},
		{name: "a larger length in the listing", fault: hubtest.Fault{Kind: hubtest.WrongLength, Bytes: another}, code: failed, says: "do not stay"},
		{name: "a smaller length in the listing", fault: hubtest.Fault{Kind: hubtest.WrongLength, Bytes: -another}, code: failed, says: "do not stay"},
	}...)
}

// TestEveryFaultOfTheHubEndsWell pulls from a hub with each fault, all at the
// same time, since most of that is waiting.
func TestEveryFaultOfTheHubEndsWell(t *testing.T) {
	var cases []faultCase
	for _, c := range listingFaults() {
		c.name = "the listing: " + c.name
		cases = append(cases, c)
	}
	for _, c := range fileFaults() {
		c.name, c.path = "the file: "+c.name, fileName
		cases = append(cases, c)
	}
	ends := make([]error, len(cases))
	rigs := make([]*rig, len(cases))
	var pulls sync.WaitGroup
	for i, c := range cases {
		r := newRig(t, options{stall: 400 * time.Millisecond})
		size := int64(20_000)
		if c.large {
			size = 12 << 20
		}
		r.put(model(fileName, 1, size))
		r.hub.Fault(repoName, c.path, c.fault)
		rigs[i] = r
		pulls.Go(func() { ends[i] = r.meets(c) })
	}
	pulls.Wait()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { rigs[i].judge(t, c, ends[i]) })
	}
}

// meets pulls a model, and leaves when the hub was asked if the case wants it.
func (r *rig) meets(c faultCase) error {
	if !c.leave {
		_, err := r.pull(hf(repoName))
		return err
	}
	w := r.Want(hf(repoName), 0)
	eventually(r.t, "an answer that stalls", func() bool {
		for _, q := range r.hub.Requests() {
			if q.Bytes == c.fault.After {
				return true
			}
		}
		return false
	})
	w.Release()
	_, err := w.Wait(context.Background())
	return err
}

// judge says what is wrong with the end of a pull.
func (r *rig) judge(t *testing.T, c faultCase, err error) {
	e := rbee.AsError(err)
	switch _, known := rbee.Codes()[rbee.CodeOf(err)]; {
	case c.code == "" && err != nil:
		t.Errorf("failed: %v", err)
	case c.code != "" && (!known || e.Code != c.code || e.Suggestion() == ""):
		t.Errorf("ended with %v, suggestion %q; want %s", err, e.Suggestion(), c.code)
	case c.code != "" && !strings.Contains(e.Message, "org/name"):
		t.Errorf("%q does not say what was asked for", e.Message)
	case c.code != "" && !strings.Contains(e.Message, c.says), c.code == "" && !strings.Contains(r.notes(), c.says):
		t.Errorf("ended with %v after\n%s", err, r.notes())
	}
	if rows, err := r.Models(t.Context()); err != nil || (len(rows) == 1) != (c.code == "") {
		t.Errorf("models: %+v, %v", rows, err)
	}
	for _, fault := range r.faults() {
		t.Error(fault)
	}
	r.hub.Heal()
	if c.fault.Kind == hubtest.Changed {
		return // by now it is no model
	}
	if _, err := r.pull(hf(repoName)); err != nil {
		t.Errorf("from the hub without the fault: %v", err)
	}
	for _, fault := range r.faults() {
		t.Errorf("afterwards: %s", fault)
	}
	if gc, err := r.GC(t.Context(), rbee.GCRequest{}); err != nil || len(r.parts()) != 0 || len(r.files()) < 2 {
		t.Errorf("gc: %+v, %v; left: %v", gc, err, r.parts())
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Errorf("waited in vain for %s", what)
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestTheTableHasEveryKindOfFault(t *testing.T) {
	missing := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([a-z-]+)"`).FindAllStringSubmatch(hubtest.Fault{Kind: "?"}.Check().Error(), -1) {
		missing[m[1]] = true
	}
	if len(missing) < 20 {
		t.Fatalf("kinds: %v", missing)
	}
	for _, c := range append(listingFaults(), fileFaults()...) {
		delete(missing, string(c.fault.Kind))
	}
	if len(missing) > 0 {
		t.Errorf("no case has %v", missing)
	}
}

func TestAFileThatChangesHalfWayIsDownloadedAnew(t *testing.T) {
	r := newRig(t, options{})
	r.put(model(fileName, 1, 12<<20))
	after := model(fileName, 2, 12<<20)
	r.hub.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Throttle, Bytes: 4 << 20})
	w := r.Want(hf(repoName), 0)
	defer w.Release()
	eventually(t, "some bytes", func() bool { return r.sent() > 1<<20 })
	commit := r.put(after)
	r.hub.Heal()
	m, err := w.Wait(t.Context())
	must(t, err)
	if m.SHA256 != after.Content.SHA256() || m.Revision != commit || !strings.Contains(r.notes(), "changed at the hub") {
		t.Errorf("row %+v after\n%s", m, r.notes())
	}
	for _, fault := range r.faults() {
		t.Error(fault)
	}
}

func TestADigestThatIsWrongBecauseTheFileHasChangedIsNoDamage(t *testing.T) {
	r := newRig(t, options{})
	r.put(model(fileName, 1, 60_000))
	after := model(fileName, 2, 60_000)
	r.hub.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Throttle, Bytes: 100_000})
	r.hub.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Corrupt, After: 50_000})
	w := r.Want(hf(repoName), 0)
	defer w.Release()
	eventually(t, "some bytes", func() bool { return r.sent() > 0 })
	r.put(after)
	r.hub.Heal()
	m, err := w.Wait(t.Context())
	if err != nil || m.SHA256 != after.Content.SHA256() || !strings.Contains(r.notes(), "changed at the hub") {
		t.Errorf("%+v, %v after\n%s", m, err, r.notes())
	}
}

func TestAFileThatKeepsChangingIsGivenUp(t *testing.T) {
	r := newRig(t, options{})
	r.put(model(fileName, 1, 12<<20))
	r.hub.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Changed})
	_, err := r.pull(hf(repoName))
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeDownloadFailed || !strings.Contains(e.Message, "do not stay") || !strings.Contains(e.Suggestion(), "revision") {
		t.Errorf("ended with %v", err)
	}
	if len(r.parts()) != 0 {
		t.Errorf("left: %v", r.parts())
	}
}

func TestHostileNamesDoNotLeaveTheStore(t *testing.T) {
	names := []string{
		"../../evil.gguf", "../evil.gguf", "/evil.gguf", "/tmp/rbee-evil.gguf", "a/../../../evil.gguf", "./evil.gguf", "evil\x00.gguf", "evil\n.gguf",
		`..\..\evil.gguf`, `C:\evil.gguf`, "C:evil.gguf", "//host/share/evil.gguf", "~/evil.gguf", "CON.gguf", "nul.gguf", "a/COM1.gguf", "evil.gguf.",
		strings.Repeat("e", 4096) + ".gguf", strings.Repeat("d/", 2048) + "evil.gguf", "evil\xff.gguf", "evil\u202e.gguf", "-rf.gguf", "$(evil).gguf",
		"../evil-00001-of-00002.gguf", "../evil-00002-of-00002.gguf", "evil-00001-of-99999.gguf", ".gguf", "..gguf", "...gguf", "",
	}
	r := newRig(t, options{})
	for i, name := range names {
		reference := fmt.Sprintf("org/evil%d", i)
		r.hub.Put(hubtest.Repo{Name: reference, Files: []hubtest.File{model(name, uint64(i), 2000)}})
		_, err := r.pull(hf(reference))
		if e := rbee.AsError(err); err != nil && (e.Code != rbee.CodeModelNotFound || e.Suggestion() == "" || strings.ContainsAny(e.Message, "\x00\n")) {
			t.Errorf("%.40q: %v", name, err)
		}
		if _, err := r.provider.Variants(t.Context(), hf(reference)); err != nil && rbee.CodeOf(err) != rbee.CodeModelNotFound {
			t.Errorf("variants of %.40q: %v", name, err)
		}
	}
	files := []hubtest.File{model("good.gguf", 99, 2000)}
	for i, name := range names {
		files = append(files, model(name, uint64(i), 2000))
	}
	r.put(files...)
	r.pulled(hf(repoName + "::good.gguf"))
	if _, err := os.Stat("/tmp/rbee-evil.gguf"); err == nil {
		t.Error("a file was written where its name says")
	}
	for _, path := range r.files() { // also of the directory around
		if strings.Contains(filepath.Base(path), "evil") || !strings.HasPrefix(path, r.home) {
			t.Errorf("there is %s", path)
		}
	}
	for _, fault := range r.faults() {
		t.Error(fault)
	}
}
