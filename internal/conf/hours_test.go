package conf_test

import (
	"testing"
	"time"

	"rbee/internal/conf"
)

func TestHoursHoldByTheClockOnTheWall(t *testing.T) {
	cases := []struct {
		hours   conf.Hours
		in, out []string
	}{
		{"08:00-18:00", []string{"08:00", "12:30", "17:59"}, []string{"00:00", "07:59", "18:00", "23:59"}},
		{"22:30-06:00", []string{"22:30", "23:59", "00:00", "05:59"}, []string{"06:00", "12:00", "22:29"}},
		{"22:00-00:00", []string{"22:00", "23:59"}, []string{"00:00", "21:59"}},
		{"00:00-24:00", []string{"00:00", "12:00", "23:59"}, nil},
		{"", nil, []string{"00:00", "12:00"}},
	}
	for _, c := range cases {
		if h, err := conf.ParseHours(string(c.hours)); err != nil || h != c.hours {
			t.Errorf("%q reads as %q, %v", c.hours, h, err)
		}
		for want, clocks := range map[bool][]string{true: c.in, false: c.out} {
			for _, clock := range clocks {
				at, err := time.ParseInLocation("2006-01-02 15:04", "2026-03-05 "+clock, time.Local)
				if err != nil {
					t.Fatal(err)
				}
				if c.hours.Contains(at) != want {
					t.Errorf("%s in %q is %v", clock, c.hours, !want)
				}
			}
		}
	}
}

func TestHoursThatAreNoneAreRefused(t *testing.T) {
	for _, text := range []string{"8", "08:00", "8:00-18:00", "08:00-25:00", "08:60-09:00", "08:00-08:00", "24:00-08:00", "08:00 - 18:00", "08:00-18:00-19:00", "-"} {
		if h, err := conf.ParseHours(text); err == nil {
			t.Errorf("%q was taken as %s", text, h)
		}
		if conf.Hours(text).Contains(time.Now()) {
			t.Errorf("%q holds", text)
		}
	}
}

func TestTheNextChangeOfTheHours(t *testing.T) {
	zurich, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name     string
		hours    conf.Hours
		at, want time.Time
	}{
		{"before them", "08:00-18:00", time.Date(2026, 7, 1, 7, 59, 30, 5, time.UTC), time.Date(2026, 7, 1, 8, 0, 0, 0, time.UTC)},
		{"at their beginning", "08:00-18:00", time.Date(2026, 7, 1, 8, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 18, 0, 0, 0, time.UTC)},
		{"after them", "08:00-18:00", time.Date(2026, 7, 31, 20, 0, 0, 0, time.UTC), time.Date(2026, 8, 1, 8, 0, 0, 0, time.UTC)},
		{"past midnight", "22:30-06:00", time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 6, 0, 0, 0, time.UTC)},
		{"in a zone", "22:30-06:00", time.Date(2026, 7, 1, 12, 0, 0, 0, zurich), time.Date(2026, 7, 1, 22, 30, 0, 0, zurich)},
		{"the clock skips the beginning", "02:30-06:00", time.Date(2026, 3, 29, 1, 0, 0, 0, zurich), time.Date(2026, 3, 29, 3, 0, 0, 0, zurich)},
		{"the clock skips all", "02:10-02:40", time.Date(2026, 3, 29, 1, 0, 0, 0, zurich), time.Date(2026, 3, 30, 2, 10, 0, 0, zurich)},
		{"the hour comes twice", "02:00-02:30", time.Date(2026, 10, 25, 0, 10, 0, 0, time.UTC).In(zurich), time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC)},
		{"and begins again", "02:00-02:30", time.Date(2026, 10, 25, 0, 40, 0, 0, time.UTC).In(zurich), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)},
		{"always", "00:00-24:00", time.Date(2026, 7, 1, 7, 0, 0, 0, time.UTC), time.Time{}},
		{"never", "", time.Date(2026, 7, 1, 7, 0, 0, 0, time.UTC), time.Time{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := c.hours.Next(c.at); !got.Equal(c.want) {
				t.Errorf("after %v comes %v, want %v", c.at, got, c.want)
			}
		})
	}
}
