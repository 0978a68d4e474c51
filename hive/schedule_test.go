package hive

import (
	"testing"
	"time"

	"rbee/internal/conf"
)

func TestQuietHoursChangeTheLimitOfDownloads(t *testing.T) {
	day := func(clock string) time.Time {
		at, err := time.ParseInLocation(time.DateTime, "2026-11-24 "+clock+":00", time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	office := conf.Hours("08:00-18:00")
	for name, c := range map[string]struct {
		settings  conf.Download
		now       time.Time
		perSecond float64
		until     string // "" for any time
	}{
		"no limit":                     {conf.Download{}, day("12:00"), -1, ""},
		"a limit":                      {conf.Download{LimitMBps: 20}, day("12:00"), 20e6, ""},
		"a pause in the quiet hours":   {conf.Download{LimitMBps: 20, QuietHours: office}, day("12:00"), 0, "18:00"},
		"a limit in the quiet hours":   {conf.Download{QuietHours: office, QuietLimitMBps: 1.5}, day("08:00"), 1.5e6, "18:00"},
		"the usual one outside":        {conf.Download{LimitMBps: 20, QuietHours: office}, day("07:30"), 20e6, "08:00"},
		"none outside":                 {conf.Download{QuietHours: office}, day("07:30"), -1, "08:00"},
		"quiet hours through midnight": {conf.Download{QuietHours: "22:00-06:00"}, day("23:00"), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			perSecond, until := schedule(c.settings)(c.now)
			if perSecond != c.perSecond || !until.After(c.now) || c.until != "" && !until.Equal(day(c.until)) {
				t.Errorf("%g bytes per second until %s", perSecond, until)
			}
		})
	}
}
