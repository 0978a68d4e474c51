package models_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"rbee/models"
)

func TestBeeTinyIsTheModelOfTheCard(t *testing.T) {
	sum := sha256.Sum256(models.BeeTiny())
	if got := hex.EncodeToString(sum[:]); got != models.BeeTinySHA256 {
		t.Errorf("embedded model has SHA-256 %s, want %s", got, models.BeeTinySHA256)
	}
	card, err := os.ReadFile("MODELCARD.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(card, []byte(models.BeeTinySHA256)) {
		t.Errorf("MODELCARD.md does not name the digest %s", models.BeeTinySHA256)
	}
}

func TestBeeTinyIsACopyForEachCaller(t *testing.T) {
	spoilt := models.BeeTiny()
	clear(spoilt)
	if again := models.BeeTiny(); !bytes.HasPrefix(again, []byte("GGUF")) {
		t.Errorf("model begins with %q after another caller wrote to its copy", again[:4])
	}
}
