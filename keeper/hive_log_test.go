package keeper

import (
	"bufio"
	"os"
	"path/filepath"
	"testing"
)

func TestALogIsReadOnAfterItWasRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hive.log")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	f, err := openRotated(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	reader := bufio.NewReader(f)
	read := func(want string) {
		t.Helper()
		if got, _ := reader.ReadString('\n'); got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	read("one\n")
	read("")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	read("")
	write("two\n")
	read("two\n")
	read("")
}
