package conf

import _ "embed"

//go:embed config.reference.yaml
var reference string

// Reference is an annotated config.yaml that names every setting and says what
// rbee does without the file.
func Reference() string { return reference }
