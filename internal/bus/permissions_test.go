package bus_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rbee"
	"rbee/internal/bus"
)

// TestAHiveReachesItsOwnKeysOnly looks at a hive that speaks NATS as it likes.
func TestAHiveReachesItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	queen, h := p.queen(t)
	good, _ := joined(t, text, rbee.JoinHive, bert)
	invited, err := good.Raw().SubscribeSync("invited." + string(bert))
	if err != nil {
		t.Fatal(err)
	}
	put(t, good, bert, 1)
	h.wait(t, 0, "now", isNow(bert, 1))
	hive, _ := joined(t, text, rbee.JoinHive, anna)
	before := h.count()
	raw := hive.Raw()
	var heard []*nats.Subscription
	for _, subject := range []string{"$KV.colony.about." + string(bert), "$KV.>", ">", "_INBOX.>", "_INBOX." + string(bert) + ".>", "_INBOX." + string(anna) + ".>", "$SYS.>", "invited.>", "invited." + string(bert)} {
		sub, err := raw.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, sub)
	}
	other := `{"id":"` + string(bert) + `","name":"forged","version":"0","api_version":"` + rbee.APIVersion + `"}`
	for _, subject := range []string{"about", "now", "prefix"} {
		for _, whose := range []rbee.HiveID{bert, "x"} {
			if err := raw.Publish("$KV.colony."+subject+"."+string(whose), []byte(other)); err != nil {
				t.Fatal(err)
			}
		}
		// Under its own key it may write what it likes, but nobody takes it for another's,
		// and it may not have an answer sent to where it may not write.
		if err := raw.Publish("$KV.colony."+subject+"."+string(anna), []byte(other)); err != nil {
			t.Fatal(err)
		}
		if err := raw.PublishRequest("$KV.colony."+subject+"."+string(anna), "$KV.colony."+subject+"."+string(bert), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	// Nor may it have one sent to where queens invite another hive.
	if err := raw.PublishRequest("$KV.colony.now."+string(anna), "invited."+string(bert), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	// A header of its message may not sweep away what others told.
	for _, what := range []string{"all", "sub"} {
		if err := raw.PublishMsg(&nats.Msg{Subject: "$KV.colony.now." + string(anna), Header: nats.Header{"Nats-Rollup": {what}}, Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{
		"$JS.API.STREAM.PURGE.KV_colony", "$JS.API.STREAM.DELETE.KV_colony", "$JS.API.DIRECT.GET.KV_colony.$KV.colony.about." + string(bert),
		"$JS.API.STREAM.INFO.KV_colony", "refused." + string(bert), "invited." + string(bert), "$SYS.REQ.SERVER.PING",
	} {
		if err := raw.PublishRequest(subject, "_INBOX."+string(anna)+".1", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.FlushTimeout(soon); err != nil {
		t.Fatal(err)
	}
	put(t, good, bert, 2)
	h.wait(t, before, "now", isNow(bert, 2))
	for _, sub := range heard {
		if m, err := sub.NextMsg(time.Millisecond); err == nil {
			t.Errorf("a hive hears %s: %s", m.Subject, m.Data)
		}
	}
	if m, err := invited.NextMsg(time.Millisecond); err == nil {
		t.Errorf("a hive invites another: %s", m.Data)
	}
	if h.since(before, func(u bus.Update) bool {
		return u.About != nil && u.About.Name == "forged" || u.Gone == bert || u.About != nil && u.About.ID == anna
	}) {
		t.Error("a hive speaks for another")
	}
	// Nothing of it is left for a queen that comes later, either.
	_, late := p.queen(t)
	late.wait(t, 0, "synced", func(u bus.Update) bool { return u.Synced })
	if !late.since(0, func(u bus.Update) bool { return isAbout(bert)(u) && u.About.Name == "bee" }) || !late.since(0, isNow(bert, 2)) {
		t.Error("what another hive told was overwritten")
	}
	if err := queen.Raw().Publish("invited."+string(bert), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := invited.NextMsg(soon); err != nil {
		t.Error("a queen may not invite a hive:", err)
	}
	if err := queen.Forget(t.Context(), bert); err != nil {
		t.Error("a queen may not forget a hive:", err)
	}
}

func TestAUserOfTheBusLogsInOnce(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	queen, _ := p.queen(t)
	used := queen.Raw().Opts
	var tries sync.WaitGroup
	for _, option := range []nats.Option{nats.Name("nobody"), nats.UserInfo("", ""), nats.UserInfo("queen", "guessed"), nats.UserInfo(used.User, used.Password)} {
		tries.Go(func() {
			nc, err := nats.Connect("", option, nats.InProcessServer(p.NATS()), nats.NoReconnect(), nats.Timeout(soon))
			if err == nil {
				nc.Close()
				t.Error("logged in")
			}
		})
	}
	tries.Wait()
}
