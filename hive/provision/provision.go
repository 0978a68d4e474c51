// Package provision brings models of a hub into the store: it asks for the files
// of a repository, chooses the variant that the machine has room for, and
// downloads what is not here yet. What the hub's own programs have in their
// cache is shared instead.
//
// It knows neither workers nor HTTP; package hub speaks to the hub, package
// download moves the bytes, package store decides when they count.
package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"rbee"
	"rbee/hive/store"
	"rbee/internal/download"
	"rbee/internal/gguf"
	"rbee/internal/hub"
)

// Config makes a Provider.
type Config struct {
	Hub         *hub.Client
	Files       store.Files
	Connections int             // at most, for one file
	Limit       *download.Limit // of all downloads together
	Stall       time.Duration   // silence of the hub that ends a connection; 0 is download.Stall
	Row         func(gguf.File) rbee.Model
	// Machine says what is free for a worker, and Need what one takes.
	Machine func(context.Context) Machine
	// Catalogued says whether a row of the catalog has a file in the store.
	Catalogued func(ctx context.Context, path string) (bool, error)
	// MakeRoom lets go of models so that the store may take so many bytes more.
	MakeRoom func(ctx context.Context, need int64, except rbee.ModelRef) ([]rbee.SpareFile, error)
}

// Machine is what a machine offers to a worker of one slot.
type Machine struct {
	FreeBytes int64
	Need      func(gguf.File) int64 // bytes
}

// Provider is the store's provider of models of a hub.
type Provider struct{ cfg Config }

// New makes a provider.
func New(cfg Config) *Provider {
	if cfg.Stall <= 0 {
		cfg.Stall = download.Stall
	}
	return &Provider{cfg}
}

// Close closes the connections to the hub that nobody uses.
func (p *Provider) Close() { p.cfg.Hub.Close() }

// Name implements store.Provider.
func (*Provider) Name() rbee.Provider { return rbee.ProviderHF }

// relistings is how often the hub is asked again when a file has changed.
const relistings = 3

// Fetch implements store.Provider. A file that changes at the hub while it
// arrives is fetched anew, as it is then.
func (p *Provider) Fetch(ctx context.Context, t store.Terms) (store.Delivery, error) {
	f := &fetch{Provider: p, terms: t}
	for n := 1; ; n++ {
		d, err := f.run(ctx)
		if !errors.Is(err, download.ErrChanged) {
			return d, err
		}
		f.say("the file has changed at the hub; it is downloaded anew")
		if n == relistings {
			return store.Delivery{}, rbee.Errorf(rbee.CodeDownloadFailed, "cannot download %s: its files do not stay what the hub lists", t.Ref).
				Suggest("try again later, or name another revision as hf:ORG/REPO@REVISION")
		}
	}
}

// fetch is one model on its way.
type fetch struct {
	*Provider
	terms store.Terms
	state rbee.DownloadProgress
	parts []*download.Part // held
}

func (f *fetch) report() { f.terms.Report(f.state) }

func (f *fetch) say(note string) {
	f.state.Note = note
	f.report()
}

// run fetches the model as the hub lists it now.
func (f *fetch) run(ctx context.Context) (d store.Delivery, err error) {
	defer func() {
		if errors.Is(err, download.ErrChanged) && len(f.parts) > 0 {
			err = errors.Join(err, f.parts[len(f.parts)-1].Discard()) // nobody will ever complete it
		}
		if err != nil {
			err = errors.Join(err, f.release())
		}
	}()
	f.state = rbee.DownloadProgress{Stage: rbee.DownloadResolving, Note: f.state.Note}
	f.report()
	ref, _ := f.terms.Ref.Hub()
	repo, v, err := f.choose(ctx, ref)
	if err != nil {
		return d, err
	}
	plan := f.plan(repo, v)
	if plan.hasTwins() {
		return d, rbee.Errorf(rbee.CodeInvalidRequest, "cannot have %s: two of its parts are the same file", f.terms.Ref).Suggest(chooseAnother)
	}
	f.state.Files, f.state.BytesTotal, f.state.LocalPath = len(v.files), v.sizeBytes, plan.to(0)
	if err := f.makeRoom(ctx, plan); err != nil {
		return d, err
	}
	f.report()
	for i := range v.files {
		if err := f.file(ctx, repo, plan, i); err != nil {
			return d, err
		}
	}
	for i, file := range v.files {
		// What was there when the others began may have been removed meanwhile.
		if plan.parts[i] == nil && !there(plan.to(i), file.SizeBytes) {
			if err := f.file(ctx, repo, plan, i); err != nil {
				return d, err
			}
		}
	}
	d.Release = f.release
	d.Moves = plan.moves()
	d.Model, err = f.row(plan)
	if err != nil {
		return d, err
	}
	d.Model.Revision, d.Model.FileName = repo.Revision, v.path()
	return d, nil
}

// release gives up the parts of the downloads, moved or not.
func (f *fetch) release() (err error) {
	for _, part := range f.parts {
		err = errors.Join(err, part.Close())
	}
	f.parts = nil
	return err
}

// choose asks the hub what there is, and finds what the reference means.
func (p *Provider) choose(ctx context.Context, ref rbee.HubRef) (hub.Repository, variant, error) {
	repo, vs, err := p.list(ctx, ref)
	if err != nil {
		return repo, variant{}, err
	}
	machine := p.cfg.Machine(ctx)
	v, err := choose(ref, vs, p.need(ctx, repo, vs, machine), machine.FreeBytes)
	return repo, v, err
}

func (p *Provider) list(ctx context.Context, ref rbee.HubRef) (hub.Repository, []variant, error) {
	repo, err := p.cfg.Hub.Repository(ctx, ref.Repository, ref.Revision)
	if err != nil {
		return repo, nil, err
	}
	return repo, variantsOf(repo.Files), nil
}

// need estimates the memory of variants from the header of one of them, which is
// read when the first estimate is asked for.
func (p *Provider) need(ctx context.Context, repo hub.Repository, vs []variant, m Machine) func(variant) int64 {
	var header *gguf.File
	asked := false
	return func(v variant) int64 {
		if !asked {
			asked = true
			header = p.header(ctx, repo, vs)
		}
		if header == nil {
			return v.sizeBytes / 5 * 6
		}
		return m.Need(header.Resized(v.sizeBytes))
	}
}

// maxHeader is how much of a file is asked for to find its header in.
const maxHeader = 64 << 20

// header reads the header of the first variant that has one; nil if none has,
// or the hub is too slow for what only an estimate needs.
func (p *Provider) header(ctx context.Context, repo hub.Repository, vs []variant) *gguf.File {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Stall)
	defer cancel()
	for _, v := range vs[:min(2, len(vs))] {
		first := v.files[0]
		body, err := p.cfg.Hub.Source(repo.ID, repo.Revision, first).Open(ctx, 0, min(first.SizeBytes, maxHeader))
		if err != nil {
			continue
		}
		h, err := gguf.ReadRemote(body, first.SizeBytes)
		_ = body.Close() // what it has to say, reading said
		if err == nil {
			return &h
		}
	}
	return nil
}

// makeRoom keeps the quota of the store, and says what had to go for it; and it
// looks whether the disk can hold what is still to come.
func (f *fetch) makeRoom(ctx context.Context, p *plan) error {
	need, reserved := p.missing()
	if need == 0 {
		return nil
	}
	gone, err := f.cfg.MakeRoom(ctx, need, f.terms.Ref)
	if err != nil {
		return err
	}
	var names []string
	var bytes int64
	for _, s := range gone {
		if s.ModelRef != nil {
			names = append(names, s.ModelRef.String())
		}
		bytes += s.SizeBytes
	}
	if len(gone) > 0 {
		f.say(fmt.Sprintf("removed %s (%d MB) to keep the quota of the store", strings.Join(names, ", "), bytes/1e6))
	}
	if need == reserved { // also a full disk can take the rest
		return nil
	}
	return download.Room(filepath.Dir(f.cfg.Files.Partial()), need-reserved)
}

// row makes the row of a model out of the files, wherever they are now.
func (f *fetch) row(p *plan) (rbee.Model, error) {
	paths := make([]string, len(p.files))
	for i := range p.files {
		paths[i] = p.now(i)
	}
	header, err := gguf.ReadParts(paths...)
	if err != nil {
		for _, part := range f.parts { // it is intact, and of no use
			err = errors.Join(err, part.Discard())
		}
		return rbee.Model{}, f.named(err, paths, p)
	}
	m := f.cfg.Row(header)
	m.Provider, m.Reference = f.terms.Ref.Provider, f.terms.Ref.Reference
	m.LocalPath, m.SizeBytes, m.DownloadedAt, m.Parts = p.to(0), 0, time.Now().UTC(), nil
	for i, file := range p.files {
		m.SizeBytes += file.SizeBytes
		if len(p.files) > 1 {
			m.Parts = append(m.Parts, rbee.ModelFile{Path: p.to(i), SizeBytes: file.SizeBytes, SHA256: p.digests[i]})
		}
	}
	if len(p.files) == 1 {
		m.SHA256, m.ETag = p.digests[0], p.files[0].SHA256
	}
	return m, nil
}

// named says which files of the hub are no model, instead of where they lay.
func (f *fetch) named(err error, paths []string, p *plan) error {
	e := rbee.AsError(err)
	message := e.Message
	for i, at := range paths {
		message = strings.ReplaceAll(message, at, f.terms.Ref.String()+" ("+path.Base(p.files[i].Path)+")")
	}
	return rbee.Errorf(e.Code, "%s", message).WithCause(err).
		Suggest(chooseAnother)
}

const chooseAnother = "choose another file: 'rbee models pull --list REF' shows what there is"

// there says whether a file of the right size is at a path.
func there(path string, size int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}
