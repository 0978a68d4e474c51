package worker_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"rbee/worker"
)

var update = flag.Bool("update", false, "write docs/openapi-worker.json anew")

func TestTheOpenAPIDocumentIsCheckedIn(t *testing.T) {
	const path = "../docs/openapi-worker.json"
	got, err := worker.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says; run 'make generate'", path)
	}
}
