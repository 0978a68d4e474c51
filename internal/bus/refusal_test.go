package bus_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/bus"
)

func TestEachRefusalIsToldOnBothSides(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	stranger := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	revoked, token := p.token(t, rbee.JoinHive)
	if err := p.Revoke(token.ID); err != nil {
		t.Fatal(err)
	}
	change := func(f func(addresses *[]string, pin, id, secret *string, kind *rbee.JoinKind)) string {
		return bus.Retold(text, f)
	}
	for _, tc := range []struct {
		name     string
		join     string
		kind     rbee.JoinKind
		api      string
		gate     *place
		code     rbee.Code
		told     string // to the client
		recorded string // by the gate
	}{
		{
			name: "no token", join: p.Addr(), kind: rbee.JoinHive, gate: p,
			code: rbee.CodeMissingAPIKey, told: "without a token", recorded: "without a token",
		},
		{
			name: "wrong secret", kind: rbee.JoinHive, gate: p,
			join: change(func(_ *[]string, _, _, secret *string, _ *rbee.JoinKind) { *secret = "guessed" }),
			code: rbee.CodeInvalidAPIKey, told: "its secret is wrong", recorded: "its secret is wrong",
		},
		{
			name: "unknown token", kind: rbee.JoinHive, gate: p,
			join: change(func(_ *[]string, _, id, _ *string, _ *rbee.JoinKind) { *id = "guessed" }),
			code: rbee.CodeInvalidAPIKey, told: "does not know the token", recorded: "does not know the token",
		},
		{
			name: "revoked token", join: revoked, kind: rbee.JoinHive, gate: p,
			code: rbee.CodeInvalidAPIKey, told: "was revoked at", recorded: "was revoked at",
		},
		{
			name: "token of a hive in a queen", kind: rbee.JoinQueen, gate: p,
			join: change(func(_ *[]string, _, _, _ *string, kind *rbee.JoinKind) { *kind = rbee.JoinQueen }),
			code: rbee.CodeInvalidAPIKey, told: "the token is for a hive", recorded: "the token is for a hive",
		},
		{
			name: "wrong certificate", kind: rbee.JoinHive, gate: stranger,
			join: change(func(addresses *[]string, _, _, _ *string, _ *rbee.JoinKind) { *addresses = []string{stranger.Addr()} }),
			code: rbee.CodeInvalidAPIKey, told: "its certificate is not the one", recorded: "another certificate",
		},
		{
			name: "other version", join: text, kind: rbee.JoinHive, api: "v2", gate: p,
			code: rbee.CodeVersionMismatch, told: "versions differ: the program is 9.9.9 (API v2)", recorded: "versions differ: the program is 9.9.9 (API v2)",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.api == "" {
				tc.api = rbee.APIVersion
			}
			log := &logged{}
			c, err := bus.JoinAs(bus.JoinConfig{Join: tc.join, Kind: tc.kind, ID: anna, Name: "bee-" + strings.ReplaceAll(tc.name, " ", "-"), Log: log.log()}, "9.9.9", tc.api)
			if err != nil {
				t.Fatal(err)
			}
			if tc.kind == rbee.JoinQueen {
				err = c.Run(t.Context()) // ends by itself
			} else {
				running(t, c.Run)
				eventually(t, "told to the hive", func() bool {
					_, err = c.Connected()
					return strings.Contains(err.Error(), tc.told) && strings.Contains(log.String(), tc.told)
				})
			}
			if rbee.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.told) || rbee.AsError(err).Suggestion() == "" {
				t.Errorf("the program is told %v", err)
			}
			eventually(t, "recorded by the gate: "+tc.recorded, func() bool { return strings.Contains(tc.gate.log.String(), tc.recorded) })
			if tc.name != "wrong certificate" && !strings.Contains(tc.gate.log.String(), "bee-"+strings.ReplaceAll(tc.name, " ", "-")) {
				t.Error("the gate does not say whom it refused")
			}
			if strings.Contains(tc.gate.log.String()+log.String(), "guessed") {
				t.Error("a secret is in a log")
			}
		})
	}
}

func TestARefusedHiveGetsInOnceTheReasonIsGone(t *testing.T) {
	t.Parallel()
	// What is tested here is one try; the next is made by Run after a while.
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, token := p.token(t, rbee.JoinHive)
	c, _ := join(t, text, rbee.JoinHive, anna)
	if err := c.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Revoke(token.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.Once(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
		t.Errorf("the error is %v", err)
	}
}

func TestARevocationCutsConnectionsOfItsTokenOnly(t *testing.T) {
	t.Parallel()
	tunnels := make(chan net.Conn, 1)
	p := open(t, t.TempDir(), "127.0.0.1:0", func(_ rbee.HiveID, c net.Conn) {
		tunnels <- c
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	})
	text, token := p.token(t, rbee.JoinHive)
	otherText, _ := p.token(t, rbee.JoinHive)
	cut, _ := joined(t, text, rbee.JoinHive, anna)
	stays, _ := joined(t, otherText, rbee.JoinHive, bert)
	tunnel, err := cut.DialTunnel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tunnel.Close() }()
	<-tunnels
	raw := stays.Raw()
	if err := p.Revoke(token.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := tunnel.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel goes on")
	}
	eventually(t, "the hive is told", func() bool {
		ok, err := cut.Connected()
		return !ok && strings.Contains(err.Error(), "was revoked")
	})
	if ok, err := stays.Connected(); !ok || stays.Raw() != raw {
		t.Errorf("another hive was cut: %v", err)
	}
	if _, err := cut.DialTunnel(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
		t.Errorf("a new tunnel: %v", err)
	}
	if err := p.Revoke("none"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("revoking none: %v", err)
	}
	if list := p.Tokens(); len(list) != 2 || list[0].RevokedAt.IsZero() || !list[1].RevokedAt.IsZero() {
		t.Errorf("the tokens are %v", list)
	}
}

func TestNoOtherTokenTakesThePlaceOfAHiveThatIsThere(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	otherText, _ := p.token(t, rbee.JoinHive)
	there, _ := joined(t, text, rbee.JoinHive, anna)
	thief, _ := join(t, otherText, rbee.JoinHive, anna)
	if err := thief.Once(t.Context()); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("the error is %v", err)
	}
	if ok, err := there.Connected(); !ok {
		t.Error(err)
	}
	// The same program again takes it: its machine may have been cut off.
	raw := there.Raw()
	again, _ := join(t, text, rbee.JoinHive, anna)
	if err := again.Once(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the old connection is cut", raw.IsClosed)
}

func TestStrangersAtTheGateGetNowhere(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	for name, line := range map[string]string{
		"NATS":          "CONNECT {}\r\n",
		"HTTP":          "GET / HTTP/1.1\r\n",
		"endless":       strings.Repeat("x", 10_000),
		"id of all":     `{"purpose":"bus","kind":"hive","id":">","api_version":"` + rbee.APIVersion + "\"}\n",
		"hive's tunnel": `{"purpose":"tunnel","kind":"hive","id":"` + string(anna) + `","api_version":"` + rbee.APIVersion + "\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", p.Addr(), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
			answer, _ := bufio.NewReader(conn).ReadBytes('\n')
			if len(answer) > 0 && !bytes.HasPrefix(answer, []byte(`{"error":`)) {
				t.Errorf("it answers %s", answer)
			}
		})
	}
	// A client without TLS, and one of an older TLS.
	plain, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	if _, err := plain.Write([]byte("CONNECT {}\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if n, _ := plain.Read(make([]byte, 1)); n == 1 {
		if b, _ := bufio.NewReader(plain).Peek(20); bytes.Contains(b, []byte("INFO")) {
			t.Error("the bus answers without TLS")
		}
	}
	if c, err := tls.Dial("tcp", p.Addr(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 is spoken")
	}
	eventually(t, "no session is left", func() bool { return p.Sessions() == 0 && p.Grants() == 0 })
}

func TestMoreStrangersThanTheGateHoldsDoNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	for range 80 { // they say nothing, and are sent away after a while
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	text, _ := p.token(t, rbee.JoinHive)
	joined(t, text, rbee.JoinHive, anna)
}

func TestWhatIsNoTokenIsRefusedBeforeDialling(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	for name, join := range map[string]string{
		"empty":           "",
		"words":           "please let me in",
		"cut":             text[:len(text)/2],
		"other form":      "rbee2." + strings.TrimPrefix(text, "rbee1."),
		"of another kind": bus.Retold(text, func(_ *[]string, _, _, _ *string, kind *rbee.JoinKind) { *kind = rbee.JoinQueen }),
		"no address":      bus.Retold(text, func(addresses *[]string, _, _, _ *string, _ *rbee.JoinKind) { *addresses = nil }),
		"no certificate":  bus.Retold(text, func(_ *[]string, pin, _, _ *string, _ *rbee.JoinKind) { *pin = "" }),
		"no secret":       bus.Retold(text, func(_ *[]string, _, _, secret *string, _ *rbee.JoinKind) { *secret = "" }),
		"no URL":          "nats://",
		"URL of a user":   "nats://bee:honey@host:port\x7f",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bus.Join(bus.JoinConfig{Join: join, Kind: rbee.JoinHive, ID: anna, Name: "bee"})
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" || strings.Contains(err.Error(), "honey") {
				t.Errorf("the error is %v", err)
			}
		})
	}
	if _, err := bus.Join(bus.JoinConfig{Join: text, Kind: rbee.JoinHive, ID: "*", Name: "bee"}); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("an id that is none: %v", err)
	}
}

// TestTwoProcessesWithOneIDDoNotReplaceOneAnotherForEver looks at a state directory that was copied.
func TestTwoProcessesWithOneIDDoNotReplaceOneAnotherForEver(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	first, _ := joined(t, text, rbee.JoinHive, anna)
	second, leave := joined(t, text, rbee.JoinHive, anna)
	eventually(t, "the refusal of the one that came first", func() bool {
		ok, err := first.Connected()
		return !ok && rbee.CodeOf(err) == rbee.CodeConflict && strings.Contains(err.Error(), "came later")
	})
	if ok, err := second.Connected(); !ok {
		t.Error("the later one is not there:", err)
	}
	if !strings.Contains(p.log.String(), "came later") {
		t.Error("the gate does not say it")
	}
	leave()
	eventually(t, "its place is free", func() bool { return p.Sessions() == 0 })
	if err := first.Once(t.Context()); err != nil {
		t.Error("the other one may not come back:", err)
	}
}
