package bus

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"rbee"
)

func FuzzTheFirstLine(f *testing.F) {
	good, err := json.Marshal(hello{Purpose: purposeBus, Kind: rbee.JoinHive, Token: "t", Secret: "s", ID: "0123456789abcdef", Name: "bee", Version: rbee.Version, APIVersion: rbee.APIVersion})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\xff{}"))
	f.Add([]byte(`{"api_version":"v1","purpose":"bus","kind":"queen","id":">"}`))
	f.Add([]byte(`{"api_version":"v1","purpose":"tunnel","kind":"hive","id":"0123456789abcde*"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		h, refusal := parseHello(line)
		if refusal != nil {
			if refusal.Suggestion() == "" || len(refusal.Message) > 1000 || !utf8.ValidString(refusal.Message) {
				t.Errorf("the refusal is %q", refusal)
			}
			return
		}
		if len(h.ID) != 16 || strings.ContainsAny(string(h.ID), "*>. ") || h.APIVersion != rbee.APIVersion || utf8.RuneCountInString(h.Name) > 64 {
			t.Errorf("let through: %+v", h)
		}
		for _, p := range permissions(rbee.JoinHive, h.ID).Publish.Allow {
			if strings.ContainsAny(p, "*>") || strings.Count(p, ".") != 3 {
				t.Errorf("permission for %s", p)
			}
		}
		for _, p := range permissions(rbee.JoinHive, h.ID).Subscribe.Allow {
			if p != invitedFor+string(h.ID) {
				t.Errorf("permission to hear %s", p)
			}
		}
	})
}

func FuzzTheAnswerOfAGate(f *testing.F) {
	f.Add([]byte(`{"ok":true,"user":"u","password":"p"}`))
	f.Add([]byte(`{"error":{"code":"CONFLICT","message":"no"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if w, err := parseWelcome(line); err == nil && (!w.OK || w.Error != nil) {
			t.Errorf("taken for a yes: %+v", w)
		}
	})
}

func FuzzTheTextOfAToken(f *testing.F) {
	good := ticket{Addresses: []string{"bee.example:7834", "[::1]:1"}, Pin: hash("x"), ID: "id", Secret: "secret", Kind: rbee.JoinHive}
	f.Add(good.text())
	f.Add("rbee1.e30")
	f.Add("rbee1.")
	f.Add(strings.Repeat("rbee1.", 1000))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTicket(text)
		if err != nil {
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest || len(text) > 40 && strings.Contains(err.Error(), text) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		again, err := parseTicket(got.text())
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%+v becomes %+v, %v", got, again, err)
		}
	})
}

func FuzzAnInvitation(f *testing.F) {
	const key = "sesame"
	h := hello{Kind: rbee.JoinHive, ID: "0123456789abcdef"}
	good := Invitation{Addresses: []string{"bee.example:7834"}, Pin: hash("x")}
	good.Proof = proof(key, proofOfQueen, h.ID, good.Pin, good.Addresses...)
	text, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"addresses":["a:1"],"pin":"` + hash("x") + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, ok := readInvitation(data, h, key)
		if ok && (!reflect.DeepEqual(i.Addresses, good.Addresses) || i.Pin != good.Pin || i.hello.Secret == "") {
			t.Errorf("taken for a queen's: %+v", i)
		}
		if _, ok := readInvitation(data, h, ""); ok {
			t.Error("without a key a hive follows anybody")
		}
	})
}
