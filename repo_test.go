package rbee_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the repository, as tests. They read files and start no tool:
// Go's test cache knows the files that a test reads, and keeps no stale pass.

const (
	module       = "rbee"
	maxFileLines = 600
	maxFuncLines = 80
	maxMainLines = 40
	maxReadme    = 90
)

// source is one Go file.
type source struct {
	path string // from the root of the repository
	dir  string
	test bool
	text []byte
	fset *token.FileSet
	file *ast.File
}

func (s source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

func (s source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// imports are the import paths of the file.
func (s source) imports(t *testing.T) []string {
	paths := make([]string, 0, len(s.file.Imports))
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// walk calls fn for each file of the repository that somebody wrote.
func walk(t *testing.T, fn func(name string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			fn(name)
		case name == "bin" || name == ".git":
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			return
		}
		text := read(t, name)
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), text, fset, file})
	})
	if len(all) < 50 {
		t.Fatalf("found %d Go files; this test must run in the root of the repository", len(all))
	}
	return all
}

// product are the files that are built into something, not tests.
func product(t *testing.T) []source {
	return slices.DeleteFunc(sources(t), func(s source) bool { return s.test })
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestEachPackageSaysWhatItIsForInOneComment(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.file.Doc == nil || strings.HasSuffix(s.file.Name.Name, "_test") {
			docs[s.dir] = append(docs[s.dir], "")
			continue
		}
		docs[s.dir] = append(docs[s.dir], s.file.Doc.Text())
	}
	for dir, texts := range docs {
		texts = slices.DeleteFunc(texts, func(text string) bool { return text == "" })
		if len(texts) != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, len(texts))
			continue
		}
		begin := "Package " + path.Base(dir) + " "
		switch {
		case dir == ".":
			begin = "Package rbee "
		case regexp.MustCompile(`(?m)^package main$`).Match(mainOf(t, dir)):
			begin = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(texts[0], begin) {
			t.Errorf("the comment of %s does not begin with %q", dir, begin)
		}
	}
}

func mainOf(t *testing.T, dir string) []byte {
	text, err := os.ReadFile(path.Join(dir, "main.go"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, s := range product(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d are allowed", s.path, n, maxFileLines)
		}
		for _, d := range s.file.Decls {
			// A contract suite is a list of cases, as a test is.
			if f, ok := d.(*ast.FuncDecl); ok && s.lines(f) > maxFuncLines && !strings.HasSuffix(s.dir, "test") {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", s.at(f), f.Name.Name, s.lines(f), maxFuncLines)
			}
		}
	}
}

func TestMainsOnlyWire(t *testing.T) {
	var programs []string
	for _, s := range product(t) {
		if path.Dir(s.dir) != "cmd" {
			continue
		}
		programs = append(programs, path.Base(s.dir))
		if n := bytes.Count(s.text, []byte("\n")); n > maxMainLines {
			t.Errorf("%s has %d lines, a main has at most %d", s.path, n, maxMainLines)
		}
	}
	slices.Sort(programs)
	if want := []string{"llm-worker-rbee", "queen-rbee", "rbee", "rbee-hive"}; !slices.Equal(programs, want) {
		t.Errorf("files in cmd belong to %q, want one in each of %q", programs, want)
	}
}

func TestNobodyStartsAGoroutineNobodyWaitsFor(t *testing.T) {
	for _, s := range product(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: bare go statement; use errgroup or sync.WaitGroup.Go", s.at(g))
			}
			return true
		})
	}
}

func TestNothingSleeps(t *testing.T) {
	for _, s := range sources(t) {
		// Under synctest time is not real.
		if s.test && slices.Contains(s.imports(t), "testing/synctest") || strings.HasPrefix(s.dir, "internal/backoff") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			// An hour in a test is a process that hangs and is killed.
			if ok && sel.Sel.Name == "Sleep" && isIdent(sel.X, "time") && !(s.test && isHour(call.Args[0])) {
				t.Errorf("%s: time.Sleep; wait for what is to happen", s.at(sel))
			}
			return true
		})
	}
}

func isHour(x ast.Expr) bool {
	sel, ok := x.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Hour"
}

func isIdent(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}

func TestPackagesHaveNoStateAndNoInit(t *testing.T) {
	for _, s := range product(t) {
		if s.path == "worker/engine/llamacpp/library.go" {
			continue // a shared library is loaded once per process and stays
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: init", s.at(d))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR && !embeds(d) {
					for _, spec := range d.Specs {
						if v := spec.(*ast.ValueSpec); v.Values == nil {
							t.Errorf("%s: variable %s of the package has no value, so somebody writes to it", s.at(v), v.Names[0].Name)
						}
					}
				}
			}
		}
		for _, name := range written(s.file) {
			t.Errorf("%s: %s is a variable of the package", s.at(name), name.Name)
		}
	}
}

// embeds reports whether the declaration gets its value from a file.
func embeds(d *ast.GenDecl) bool {
	return d.Doc != nil && slices.ContainsFunc(d.Doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// written are the places where a variable of the package that the file declares is set.
func written(file *ast.File) []*ast.Ident {
	var names []*ast.Ident
	target := func(x ast.Expr) {
		for {
			switch y := x.(type) {
			case *ast.IndexExpr:
				x = y.X
				continue
			case *ast.SelectorExpr:
				x = y.X
				continue
			case *ast.Ident:
				if obj := file.Scope.Lookup(y.Name); obj != nil && obj == y.Obj && obj.Kind == ast.Var {
					names = append(names, y)
				}
			}
			return
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, x := range n.Lhs {
				target(x)
			}
		case *ast.IncDecStmt:
			target(n.X)
		}
		return true
	})
	return names
}

func TestPackageNamesSayWhatIsInside(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains([]string{"pkg", "common", "util", "utils", "types", "helper", "helpers", "misc", "base", "shared"}, s.file.Name.Name) {
			t.Errorf("%s: package %s could hold anything", s.path, s.file.Name.Name)
		}
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	later := regexp.MustCompile("TO" + "DO|FIX" + "ME|(?i)not (yet )?" + "implemented")
	for _, s := range sources(t) {
		for i, line := range bytes.Split(s.text, []byte("\n")) {
			if later.Match(line) && !bytes.Contains(line, []byte("StatusNot"+"Implemented")) {
				t.Errorf("%s:%d: %s", s.path, i+1, bytes.TrimSpace(line))
			}
		}
	}
}

// Names of machines are settings of those who build and use rbee, not ours.
func TestNoRegistryHostAndNoPathOfAMachine(t *testing.T) {
	named := regexp.MustCompile(`registry\.(npm` + `js|yarn` + `pkg)|proxy\.gol` + `ang\.org|(^|[\s"'=(])/(ro` + `ot|wo` + `rk)/`)
	walk(t, func(name string) {
		text := read(t, name)
		if bytes.IndexByte(text, 0) >= 0 { // a model
			return
		}
		if found := named.Find(text); found != nil {
			t.Errorf("%s names %q", name, found)
		}
	})
}
