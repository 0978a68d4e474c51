package dispatch

import (
	"fmt"
	"testing"

	"rbee"
	"rbee/queen/sched"
)

func TestTheJournalIsBounded(t *testing.T) {
	var hives []*sched.Hive
	for i := range 1000 {
		hives = append(hives, &sched.Hive{ID: rbee.HiveID(fmt.Sprintf("%016x", i)), Seq: 1})
	}
	large := sched.NewSnapshot(hives, sched.NewFlights())
	req := rbee.RouteRequest{ModelRef: rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "org/model"}}
	small, great := sched.Decide(sched.FromInput(req.ModelRef, rbee.RouteInput{}), &req), sched.Decide(large, &req)
	var j journal
	for i := range 2000 {
		j.begin(fmt.Sprint(i)).decided(small, req)
	}
	if len(j.ring) != maxRecords || len(j.byID) != maxRecords || j.find("999") != nil || j.find("1000") == nil {
		t.Errorf("%d records, %d by id", len(j.ring), len(j.byID))
	}
	late := j.find("1000")
	for i := range 1000 {
		j.begin(fmt.Sprint("l", i)).decided(great, req)
	}
	late.decided(great, req) // nobody knows it any more
	if n := len(j.ring); n > maxWeight/great.Weight() || n < maxWeight/great.Weight()-1 || n != len(j.byID) || j.weight != n*great.Weight() || j.find("l999") == nil {
		t.Errorf("%d records with %d bytes, %d by id", n, j.weight, len(j.byID))
	}
}
