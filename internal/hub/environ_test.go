package hub_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/hub"
)

func TestTheEnvironmentIsReadAsTheHubsOwnProgramsReadIt(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(home, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(".cache/huggingface/token", "of-the-cache\n")
	write("hf/token", "of-hf-home\n")
	named := write("named", " of-the-path\n")
	in := func(name string) string { return filepath.Join(home, filepath.FromSlash(name)) }
	cache := in(".cache/huggingface/hub")
	for _, tt := range []struct {
		name    string
		environ []string
		want    hub.Config
	}{
		{"nothing", nil, hub.Config{Endpoint: hub.DefaultEndpoint}},
		{"a home", []string{"HOME=" + home}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "of-the-cache", CacheDir: cache}},
		{"a home of Windows", []string{"USERPROFILE=" + home}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "of-the-cache", CacheDir: cache}},
		{"a token", []string{"HOME=" + home, "HF_TOKEN= hf_x ", "HF_TOKEN_PATH=" + named}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "hf_x", CacheDir: cache}},
		{"the last of two tokens", []string{"HF_TOKEN=hf_x", "HF_TOKEN=hf_y"}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "hf_y"}},
		{"a file with a token", []string{"HOME=" + home, "HF_TOKEN_PATH=~/named"}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "of-the-path", CacheDir: cache}},
		{"a file that is not there", []string{"HOME=" + home, "HF_TOKEN_PATH=/nowhere/token"}, hub.Config{Endpoint: hub.DefaultEndpoint, CacheDir: cache}},
		{"HF_HOME", []string{"HOME=" + home, "HF_HOME=~/hf"}, hub.Config{Endpoint: hub.DefaultEndpoint, Token: "of-hf-home", CacheDir: in("hf/hub")}},
		{"XDG_CACHE_HOME", []string{"HOME=" + home, "XDG_CACHE_HOME=/xdg"}, hub.Config{Endpoint: hub.DefaultEndpoint, CacheDir: filepath.FromSlash("/xdg/huggingface/hub")}},
		{"HF_HUB_CACHE", []string{"HOME=" + home, "HF_HUB_CACHE=/c", "HF_HOME=/h"}, hub.Config{Endpoint: hub.DefaultEndpoint, CacheDir: "/c"}},
		{"an endpoint", []string{"HF_ENDPOINT=http://127.0.0.1:8080/mirror/"}, hub.Config{Endpoint: "http://127.0.0.1:8080/mirror"}},
		{"offline", []string{"HF_HUB_OFFLINE=True"}, hub.Config{Endpoint: hub.DefaultEndpoint, Offline: true}},
		{"not offline", []string{"HF_HUB_OFFLINE=0"}, hub.Config{Endpoint: hub.DefaultEndpoint}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hub.FromEnviron(tt.environ)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestSettingsThatCannotBeUsedAreRefusedWithoutRepeatingThem(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, set, says string }{
		{"no scheme", "HF_ENDPOINT=secret.example", "cannot use HF_ENDPOINT"},
		{"another scheme", "HF_ENDPOINT=ftp://secret.example", "neither with https:// nor with http://"},
		{"no host", "HF_ENDPOINT=https://:443", "it is no address"},
		{"a password", "HF_ENDPOINT=https://user:secret@host", "it has a user or a password"},
		{"a query", "HF_ENDPOINT=https://host/?secret", "more than a host and a path"},
		{"nonsense", "HF_ENDPOINT=https://%secret", "it is no address"},
		{"a token with a line break", "HF_TOKEN=secret\nX-Evil: 1", "the token of HF_TOKEN"},
		{"a file that is none", "HF_TOKEN_PATH=" + dir, "cannot read the hub's token from " + dir},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := hub.FromEnviron([]string{tt.set})
			wantError(t, err, rbee.CodeInvalidRequest, tt.says)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the setting: %v", err)
			}
		})
	}
}
