package conf

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Setting is one setting in words, for people and scripts. A secret is hidden.
type Setting struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Variable string `json:"variable" doc:"its name in the environment"`
	Origin   string `json:"origin" doc:"file and line, variable, flag or default"`
}

// Settings lists all settings in the order of the reference file, those of
// nodes and aliases by name.
func (c Config) Settings() []Setting {
	var list []Setting
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if name := yamlName(v.Type().Field(i)); name != "" {
			list = c.settingsOf(list, name, v.Field(i))
		}
	}
	return list
}

func (c Config) settingsOf(list []Setting, key string, v reflect.Value) []Setting {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := yamlName(v.Type().Field(i)); name != "" {
				list = c.settingsOf(list, join(key, name), v.Field(i))
			}
		}
		return list
	case reflect.Map:
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, name := range names {
			list = c.settingsOf(list, join(key, name.String()), v.MapIndex(name))
		}
		return list
	}
	text := fmt.Sprint(v.Interface())
	switch x := v.Interface().(type) {
	case time.Duration:
		text = shortDuration(x)
	case float64:
		text = strconv.FormatFloat(x, 'f', -1, 64)
	}
	return append(list, Setting{Key: key, Value: text, Variable: variableOf(key), Origin: c.originOf(key).String()})
}

// shortDuration prints 5m where time.Duration prints 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
