package conf

import (
	"fmt"
	"reflect"
	"strings"
)

// suggestKey says what may have been meant by an unknown key.
func suggestKey(path, name string) string {
	known := knownKeys(path)
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(name, k); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", join(path, best))
	}
	for _, s := range Defaults().Settings() {
		if strings.HasSuffix(s.Key, "."+name) {
			return fmt.Sprintf("did you mean %s?", s.Key)
		}
	}
	return "known here: " + strings.Join(known, ", ")
}

// knownKeys are the names that may stand in a section.
func knownKeys(path string) []string {
	t := reflect.TypeFor[Config]()
	if section, _, _ := strings.Cut(path, "."); section != "" {
		for i := range t.NumField() {
			if yamlName(t.Field(i)) == section {
				t = t.Field(i).Type
				break
			}
		}
		if t.Kind() == reflect.Map {
			t = t.Elem()
		}
	}
	var names []string
	for i := range t.NumField() {
		if name := yamlName(t.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// editDistance counts the letters to insert, remove or change to get from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
