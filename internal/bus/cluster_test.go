package bus_test

import (
	"context"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/bus"
)

// aCluster is the URL of a bus that is nobody's queen's.
func aCluster(t *testing.T, hives ...rbee.HiveID) (url string) {
	t.Helper()
	s, err := bus.ClusterServer(t.TempDir(), hives...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(soon) {
		t.Fatal("not ready")
	}
	return "nats://bee:honey@" + s.Addr().String()
}

func TestABusOfOthersCarriesAColony(t *testing.T) {
	t.Parallel()
	url := aCluster(t)
	hive, _ := joined(t, url, rbee.JoinHive, anna)
	if err := hive.PutNow(t.Context(), rbee.HiveNow{ID: anna}); err == nil || !strings.Contains(err.Error(), "no queen has been") {
		t.Errorf("before any queen: %v", err)
	}
	queen, _ := joined(t, url, rbee.JoinQueen, bert)
	h := watch(t, queen)
	put(t, hive, anna, 1)
	h.wait(t, 0, "about", isAbout(anna))
	second, _ := joined(t, url, rbee.JoinQueen, "00000000000000cc")
	late := watch(t, second)
	late.wait(t, 0, "about", isAbout(anna))
	late.wait(t, 0, "lost", isGone(anna, true))
	if _, err := hive.DialTunnel(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a tunnel: %v", err)
	}
}

func TestAHiveOfAnotherVersionIsRefusedOnABusOfOthersToo(t *testing.T) {
	t.Parallel()
	url := aCluster(t)
	log := &logged{}
	queen, err := bus.Join(bus.JoinConfig{Join: url, Kind: rbee.JoinQueen, ID: bert, Name: "queen", Log: log.log()})
	if err != nil {
		t.Fatal(err)
	}
	running(t, queen.Run)
	h := watch(t, queen)
	h.wait(t, 0, "synced", func(u bus.Update) bool { return u.Synced })
	hive, hiveLog := join(t, url, rbee.JoinHive, anna)
	other := about(anna, "old-bee")
	other.APIVersion = "v0"
	hive.OnConnect(func() {
		if err := hive.PutAbout(context.Background(), other); err != nil {
			t.Log(err)
		}
	})
	running(t, hive.Run)
	eventually(t, "told to the hive", func() bool {
		ok, err := hive.Connected()
		return !ok && rbee.CodeOf(err) == rbee.CodeVersionMismatch && strings.Contains(hiveLog.String(), "versions differ")
	})
	if text := log.String(); !strings.Contains(text, "versions differ") || !strings.Contains(text, "old-bee") {
		t.Error("the queen does not say whom she refused")
	}
	if h.since(0, isAbout(anna)) {
		t.Error("the hive is in the colony")
	}
}

func TestABusThatRefusesOrIsNotThereIsToldWithoutItsPassword(t *testing.T) {
	t.Parallel()
	url := strings.Replace(aCluster(t), "honey", "wax", 1)
	c, _ := join(t, url, rbee.JoinQueen, anna)
	if err := c.Run(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey || strings.Contains(err.Error(), "wax") {
		t.Errorf("wrong password: %v", err)
	}
	c, _ = join(t, "nats://bee:honey@127.0.0.1:1", rbee.JoinQueen, anna)
	if err := c.Once(t.Context()); rbee.CodeOf(err) != rbee.CodeConnectionTimeout || strings.Contains(err.Error(), "honey") {
		t.Errorf("nobody there: %v", err)
	}
}
