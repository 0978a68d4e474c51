package provision

import (
	"context"

	"rbee"
	"rbee/internal/hub"
)

// Variants lists what a repository offers, best first, and what of it a
// reference means. It fails as the hub does.
func (p *Provider) Variants(ctx context.Context, ref rbee.ModelRef) (rbee.VariantList, error) {
	h, ok := ref.Hub()
	if !ok {
		return rbee.VariantList{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot list variants of %s: it is not of a hub", ref).
			Suggest("name a repository, as in hf:ORG/REPO")
	}
	repo, vs, err := p.list(ctx, h)
	if err != nil {
		return rbee.VariantList{}, err
	}
	machine := p.cfg.Machine(ctx)
	need := p.need(ctx, repo, vs, machine)
	chosen, err := choose(h, vs, need, machine.FreeBytes)
	if len(vs) == 0 {
		return rbee.VariantList{}, err
	}
	list := rbee.VariantList{Repository: repo.ID, Revision: repo.Revision, Variants: []rbee.Variant{}}
	for _, v := range vs {
		bytes := need(v)
		list.Variants = append(list.Variants, rbee.Variant{
			ModelRef: refOf(h, v, vs), Quantisation: v.quantisation, Files: names(v.files), SizeBytes: v.sizeBytes,
			MemoryBytes: bytes, Fits: bytes <= machine.FreeBytes, OnDisk: p.onDisk(repo, v),
			Chosen: err == nil && v.path() == chosen.path(), // nothing is where nothing fits
		})
	}
	return list, nil
}

func names(files []hub.File) []string {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// onDisk says whether the store has all bytes of a variant.
func (p *Provider) onDisk(repo hub.Repository, v variant) bool {
	plan := p.plan(repo, v)
	need, _ := plan.missing()
	return need == 0
}

// Search finds repositories on the hub.
func (p *Provider) Search(ctx context.Context, words string, limit int) ([]rbee.HubModel, error) {
	return p.cfg.Hub.Search(ctx, words, limit)
}
