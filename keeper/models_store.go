package keeper

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

// worthLines is the size from which a file gets lines of progress where there is
// no terminal. Smaller ones are read before anybody has read the lines.
const worthLines = 500e6

// storeEvent is the JSON form of a step that ended a file. The event is the
// stage.
type storeEvent struct {
	Event rbee.StoreStage `json:"event"`
	rbee.StoreProgress
}

// eachFile shows the progress of work on files of the store, and hands on what
// ended each. It fails when all of the work did, or when ended does.
func (a *app) eachFile(ctx context.Context, c *colony, label string, work iter.Seq2[rbee.StoreProgress, error], ended func(rbee.StoreProgress) error) error {
	b := a.out.bar(0, label, "bytes")
	defer b.clear()
	for p, err := range work {
		switch {
		case err != nil && interrupted(ctx):
			return context.Cause(ctx)
		case err != nil:
			return c.lostIfCut(ctx, err)
		case p.Stage == "" && p.Error != nil:
			return p.Error
		case p.Stage == rbee.StoreReading:
			if a.out.terminal || a.out.json || p.BytesTotal >= worthLines {
				b.set(p.BytesDone, p.BytesTotal)
			}
			continue
		}
		b.clear()
		b.restart()
		if a.out.json {
			a.out.emit(storeEvent{p.Stage, p})
		}
		if err := ended(p); err != nil {
			return err
		}
	}
	return nil
}

// named is what a step is about: the model, or the file where there is none.
func named(p rbee.StoreProgress) string {
	if p.ModelRef != nil {
		return p.ModelRef.String()
	}
	return p.Path
}

// why is the reason of a step that went wrong.
func why(p rbee.StoreProgress) string {
	if p.Error == nil {
		return "no reason is known"
	}
	return p.Error.Message
}

func (a *app) modelsVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [REF...]",
		Short: "Read models, by default all, and compare their digests; exit code 1 if one is damaged",
		Long: `Read the files of models, by default all, and compare their digests. A damaged
file is set aside, so that no worker gets it, and 'rbee models pull' fetches it
again. Exit code 1 if a file is damaged or cannot be checked.

With --json each line of standard output is an object with the field "event":
  progress  label, done, total, unit
  intact, damaged, skipped
            model_ref, path, error
  done      intact, damaged, skipped: how many`,
		Example: `  rbee models verify
  rbee models verify tinyllama`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				var req rbee.VerifyRequest
				for _, name := range args {
					ref, err := modelRef(cfg, name, c.local)
					if err != nil {
						return err
					}
					req.ModelRefs = append(req.ModelRefs, ref.String())
				}
				return a.verify(ctx, c, req)
			})
		},
	}
}

// verifiedEvent is the JSON form of the end of verify.
type verifiedEvent struct {
	Event   string `json:"event"`
	Intact  int    `json:"intact"`
	Damaged int    `json:"damaged"`
	Skipped int    `json:"skipped"`
}

func (a *app) verify(ctx context.Context, c *colony, req rbee.VerifyRequest) error {
	sum := verifiedEvent{Event: "done"}
	err := a.eachFile(ctx, c, "verifying", c.client.VerifyModels(ctx, req), func(p rbee.StoreProgress) error {
		result := fmt.Sprintf("%-8s %s", p.Stage, named(p))
		switch p.Stage {
		case rbee.StoreIntact:
			sum.Intact++
		case rbee.StoreDamaged:
			sum.Damaged++
			result += ": " + why(p)
		default:
			sum.Skipped++
			result += ": " + why(p)
		}
		if !a.out.json {
			a.out.line("%s", result)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case a.out.json:
		a.out.emit(sum)
	case sum.Intact+sum.Damaged+sum.Skipped == 0:
		a.out.note("No models to verify.")
	case sum.Damaged > 0:
		a.out.note("%d intact, %d damaged. 'rbee models pull REF' fetches a damaged model again.", sum.Intact, sum.Damaged)
	}
	if sum.Damaged+sum.Skipped > 0 {
		return errReported
	}
	return nil
}

func (a *app) modelsImportCommand() *cobra.Command {
	var req rbee.ImportRequest
	cmd := &cobra.Command{
		Use:   "import [PATH...]",
		Short: "Take GGUF files into the store of the hive without copying them",
		Long: `Take GGUF files into the store of the hive, by a hard link or a reflink, so that
they take no more space and stay when the original is removed. Print their
references. A path is a GGUF file, the first part of a split one, or a directory
that is searched: a Hugging Face cache, an Ollama or LM Studio store, a
directory of the llorch-models script, or any other. Without a path it is the
directory that LLORCH_MODEL_BASE_DIR names.

A file that cannot be linked, since it lies on another disk, is skipped unless
--copy is given. Exit code 1 if a file that was named is not imported.

With --json each line of standard output is an object with the field "event":
  progress  label, done, total, unit
  imported  model_ref, path, model
  skipped   path, error
  error     error: code, message, details`,
		Example: `  rbee models import ./story.gguf
  rbee models import ./story.gguf --as me/story
  rbee models import ~/.cache/huggingface/hub ~/.ollama/models`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if base := os.Getenv("LLORCH_MODEL_BASE_DIR"); len(args) == 0 && base != "" {
				args = []string{base}
			}
			switch {
			case len(args) == 0:
				return usagef(cmd, "the path is missing, and LLORCH_MODEL_BASE_DIR is not set")
			case len(args) > 1 && (req.ModelRef != "" || req.SHA256 != ""):
				return usagef(cmd, "--as and --sha256 are for one file")
			}
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				if req.ModelRef != "" {
					ref, err := rbee.ParseModelRef(req.ModelRef)
					if err != nil {
						return err
					}
					req.ModelRef = ref.String()
				}
				for _, path := range args {
					if err := a.importPath(ctx, c, req, path); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.ModelRef, "as", "", "reference to have the file under, such as hf:ORG/REPO:Q4_K_M (default file:PATH)")
	flags.StringVar(&req.SHA256, "sha256", "", "digest that the file must have (64 hex digits)")
	flags.BoolVar(&req.Copy, "copy", false, "copy what cannot be linked")
	return cmd
}

func (a *app) importPath(ctx context.Context, c *colony, req rbee.ImportRequest, path string) error {
	var err error
	if req.Path, err = hivePath(c, path); err != nil {
		return err
	}
	return a.eachFile(ctx, c, "importing", c.client.ImportModels(ctx, req), func(p rbee.StoreProgress) error {
		switch {
		case p.Stage == rbee.StoreImported && p.Model != nil:
			if !a.out.json {
				a.out.note("Imported %s (%s)", orPath(p.Path, p.Model.LocalPath), size(p.Model.SizeBytes))
				a.out.line("%s", p.Model.Ref())
			}
		case p.Path == req.Path && p.Error != nil:
			return p.Error
		case !a.out.json:
			a.out.note("Skipped %s: %s", p.Path, why(p))
		}
		return nil
	})
}

// orPath is the path that the user knows, or else the one that there is.
func orPath(path, otherwise string) string {
	if path != "" {
		return path
	}
	return otherwise
}

// hivePath is a path on the hive's machine.
func hivePath(c *colony, path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	if !c.local {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot use a relative path: the hive is on another machine").
			Suggest("give the absolute path on the hive's machine")
	}
	return filepath.Abs(path)
}

func (a *app) modelsExportCommand() *cobra.Command {
	var req rbee.ExportRequest
	cmd := &cobra.Command{
		Use:   "export REF PATH",
		Short: "Write a model to a file outside the store",
		Long: `Write a model to a file outside the store, and print its path. In a directory
that exists the file keeps the name that it came with; the parts of a split
model go into a directory. An existing file is not replaced.

With --json each line of standard output is an object with the field "event":
  progress  label, done, total, unit
  exported  model_ref, path
  error     error: code, message, details`,
		Example: `  rbee models export tinyllama ./tinyllama.gguf
  rbee models export builtin:bee-tiny . --link`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("give a model and a path")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				ref, err := modelRef(cfg, args[0], c.local)
				if err != nil {
					return err
				}
				req.ModelRef = ref.String()
				if req.Path, err = hivePath(c, args[1]); err != nil {
					return err
				}
				return a.eachFile(ctx, c, "exporting", c.client.ExportModel(ctx, req), func(p rbee.StoreProgress) error {
					switch {
					case p.Error != nil:
						return p.Error
					case !a.out.json:
						a.out.line("%s", p.Path)
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&req.Link, "link", false, "make a hard link, which takes no space; whoever changes the file then changes the model")
	return cmd
}
