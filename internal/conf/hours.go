package conf

import (
	"errors"
	"strings"
	"time"
)

const (
	hoursExample = "for example 08:00-18:00, or 22:30-06:00 for a night"
	minuteOfEnd  = 24 * 60
)

// Hours is a part of each day by the clock on the wall, such as 08:00-18:00.
// It may pass midnight. "" is no hours.
type Hours string

// ParseHours reads HH:MM-HH:MM, or "". The end is not part of the hours and may be 24:00.
func ParseHours(s string) (Hours, error) {
	if _, _, ok := Hours(s).minutes(); s != "" && !ok {
		return "", errors.New("must be two different times of the day, " + hoursExample)
	}
	return Hours(s), nil
}

// String prints what ParseHours reads.
func (h Hours) String() string { return string(h) }

// Contains says whether the clock at the location of t is within the hours.
func (h Hours) Contains(t time.Time) bool {
	from, to, ok := h.minutes()
	now := t.Hour()*60 + t.Minute()
	switch {
	case !ok:
		return false
	case from < to:
		return from <= now && now < to
	}
	return now >= from || now < to
}

// Next is the first moment after t when Contains answers otherwise, the zero
// time if there is none.
func (h Hours) Next(t time.Time) time.Time {
	if h == "" {
		return time.Time{}
	}
	now := h.Contains(t)
	// Minute by minute, so that it holds on the days when the clock is changed:
	// there a time can come twice or not at all, hence the days.
	end := t.AddDate(0, 0, 3)
	for u := t.Truncate(time.Minute).Add(time.Minute); u.Before(end); u = u.Add(time.Minute) {
		if h.Contains(u) != now {
			return u
		}
	}
	return time.Time{}
}

// minutes are the minutes of the day at which the hours begin and end.
func (h Hours) minutes() (from, to int, ok bool) {
	begin, end, ok := strings.Cut(string(h), "-")
	from, ok1 := minuteOf(begin)
	to, ok2 := minuteOf(end)
	return from, to, ok && ok1 && ok2 && from != to && from != minuteOfEnd
}

// minuteOf reads a time of the day.
func minuteOf(s string) (int, bool) {
	if s == "24:00" {
		return minuteOfEnd, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil && len(s) == len("15:04")
}
