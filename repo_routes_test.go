package rbee_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tableRow is a route as it stands in a role's routes.go.
type tableRow struct {
	at, method, path string
	handler          string // the name of the function, such as health or metrics.handler
	public           bool
}

func (r tableRow) String() string { return r.method + " " + r.path }

// routeTables reads the tables of all roles.
func routeTables(t *testing.T) map[string][]tableRow {
	t.Helper()
	tables := map[string][]tableRow{}
	for _, s := range product(t) {
		role, isTable := strings.CutSuffix(s.path, "/routes.go")
		if !isTable {
			continue
		}
		words := stringsOf(s.file)
		ast.Inspect(s.file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok && lit.Type == nil {
				if row := rowOf(s, lit, words); row.path != "" {
					tables[role] = append(tables[role], row)
				}
			}
			return true
		})
	}
	if len(tables["hive"]) < 10 || len(tables["worker"]) < 9 || len(tables["queen"]) < 3 {
		t.Fatalf("read %d routes of the hive, %d of the worker, %d of the queen: the tables have another form now",
			len(tables["hive"]), len(tables["worker"]), len(tables["queen"]))
	}
	return tables
}

func rowOf(s source, lit *ast.CompositeLit, words map[string]string) tableRow {
	row := tableRow{at: s.at(lit)}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return tableRow{}
		}
		switch key := kv.Key.(*ast.Ident); key.Name {
		case "Method":
			row.method = pathOf(kv.Value, words)
		case "Path":
			row.path = pathOf(kv.Value, words)
		case "Access":
			sel, ok := kv.Value.(*ast.SelectorExpr)
			row.public = ok && sel.Sel.Name == "Public"
		case "Handler":
			if call, ok := kv.Value.(*ast.CallExpr); ok && len(call.Args) > 0 {
				row.handler = nameOf(call.Args[len(call.Args)-1])
			}
		}
	}
	return row
}

// nameOf is the name of a handler without its receiver.
func nameOf(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.CallExpr:
		return nameOf(x.Fun)
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		if inner, ok := x.X.(*ast.SelectorExpr); ok {
			return inner.Sel.Name + "." + x.Sel.Name
		}
		return x.Sel.Name
	}
	return ""
}

// stringsOf are the constants and variables of a file that name a path or a method.
func stringsOf(file *ast.File) map[string]string {
	words := map[string]string{}
	define := func(names, values []ast.Expr) {
		for i := range min(len(names), len(values)) {
			if id, ok := names[i].(*ast.Ident); ok {
				if text := pathOf(values[i], words); text != "" {
					words[id.Name] = text
				}
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			names := make([]ast.Expr, len(n.Names))
			for i, id := range n.Names {
				names[i] = id
			}
			define(names, n.Values)
		case *ast.AssignStmt:
			define(n.Lhs, n.Rhs)
		case *ast.FuncDecl: // such as workerPath in the client: one return of a path
			if n.Recv == nil && len(n.Body.List) == 1 {
				if ret, ok := n.Body.List[0].(*ast.ReturnStmt); ok && len(ret.Results) == 1 {
					words[n.Name.Name] = pathOf(ret.Results[0], words)
				}
			}
		}
		return true
	})
	return words
}

// pathOf is the text of an expression; what only a running program knows is {}.
func pathOf(x ast.Expr, words map[string]string) string {
	switch x := x.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(x.Value); err == nil && x.Kind == token.STRING {
			return text
		}
	case *ast.SelectorExpr:
		if method, ok := strings.CutPrefix(x.Sel.Name, "Method"); ok && isIdent(x.X, "http") {
			return strings.ToUpper(method)
		}
		if x.Sel.Name == "base" {
			return ""
		}
	case *ast.Ident:
		return words[x.Name]
	case *ast.CallExpr:
		if id, ok := x.Fun.(*ast.Ident); ok && words[id.Name] != "" {
			return words[id.Name]
		}
		return "{}"
	case *ast.BinaryExpr:
		return pathOf(x.X, words) + pathOf(x.Y, words)
	}
	return ""
}

// clientCalls are the methods and paths that package client calls.
func clientCalls(t *testing.T) map[string]bool {
	calls := map[string]bool{}
	for _, s := range product(t) {
		if s.dir != "client" {
			continue
		}
		words := stringsOf(s.file)
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			var methods, paths []string
			ast.Inspect(f, func(n ast.Node) bool {
				if x, ok := n.(ast.Expr); ok {
					switch text := pathOf(x, words); {
					case strings.HasPrefix(text, "/"):
						paths = append(paths, text)
					case text != "" && strings.ToUpper(text) == text && regexp.MustCompile(`^[A-Z]+$`).MatchString(text):
						methods = append(methods, text)
					}
				}
				return true
			})
			if methods == nil {
				methods = []string{"GET"}
			}
			for _, p := range paths {
				for _, m := range methods {
					calls[m+" "+p] = true
				}
			}
		}
	}
	return calls
}

func TestEachRouteHasAClientCall(t *testing.T) {
	// Not for our client: the relay is reached through the URL of a worker,
	// OpenAI's API through the clients that are made for it, and the rest is for
	// probes and collectors of others.
	raw := []string{
		" /v1/workers/{id}/v1/{path...}", "GET /health", "GET /v1/workers/{id}/metrics",
		"POST /v1/embeddings",
	}
	calls := clientCalls(t)
	for role, rows := range routeTables(t) {
		for _, row := range rows {
			called := calls[regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(row.String(), "{}")]
			if listed := slices.Contains(raw, row.String()); called == listed {
				t.Errorf("%s: %s of the %s: a client call: %t, listed as raw: %t; want one of both", row.at, row, role, called, listed)
			}
		}
	}
}

func TestNoGETChangesState(t *testing.T) {
	// Handlers that were read and found to change nothing.
	readers := []string{
		"health", "metrics", "metrics.handler",
		"listDevices", "listWorkers", "showWorker", "workerLogs", "workerMetrics", "streamEvents", "listDecisions", "showStatus", // hive
		"listModels", "showModel", "listVariants", "searchModels", "showUsage", "followDownload",
		"readiness", "loading", "slots", // worker; listModels and showModel are its own as well
		"listHives", "listTokens", "dispatch.ListModels", "dispatch.ShowModel", "dispatch.ListDecisions", "dispatch.ShowDecision", // queen
	}
	for role, rows := range routeTables(t) {
		for _, row := range rows {
			if reads := slices.Contains(readers, row.handler); (row.method == "GET") != reads {
				t.Errorf("%s: %s of the %s is answered by %s, which is listed as a reader: %t", row.at, row, role, row.handler, reads)
			}
		}
	}
}

func TestOnlyLivenessIsPublic(t *testing.T) {
	for role, rows := range routeTables(t) {
		for _, row := range rows {
			if want := slices.Contains([]string{"/health", "/v1/health", "/v1/ready"}, row.path); row.public != want {
				t.Errorf("%s: %s of the %s: public is %t, want %t", row.at, row, role, row.public, want)
			}
		}
	}
}
