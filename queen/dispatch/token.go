package dispatch

import (
	"bytes"
	"encoding/json"

	"rbee/internal/sse"
)

// said is what events say, until the first token.
type said int

const (
	saidNothing said = iota // comments, roles
	saidToken               // something for the reader
	saidFailure
)

// chunk is what an event of a stream may be.
type chunk struct {
	Error   json.RawMessage `json:"error"`
	Choices *[]struct {
		Delta        map[string]json.RawMessage `json:"delta"`
		Text         string                     `json:"text"`
		FinishReason *string                    `json:"finish_reason"`
	} `json:"choices"`
}

// listen looks for a token or a failure in whole events; the failure is the
// data of its event. What is unknown is for the reader.
func listen(events []byte) (said, []byte) {
	for line := range bytes.Lines(events) {
		data, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("data:"))
		if !ok {
			continue
		}
		data = bytes.TrimSpace(data)
		var c chunk
		switch {
		case string(data) == sse.End, json.Unmarshal(data, &c) != nil:
			return saidToken, nil
		case len(c.Error) > 0 && string(c.Error) != "null":
			return saidFailure, data
		case c.Choices == nil, c.hasToken():
			return saidToken, nil
		}
	}
	return saidNothing, nil
}

func (c *chunk) hasToken() bool {
	for _, choice := range *c.Choices {
		if choice.Text != "" || choice.FinishReason != nil {
			return true
		}
		for field, v := range choice.Delta {
			switch string(v) {
			case `""`, "null", "[]", "{}":
			default:
				if field != "role" {
					return true
				}
			}
		}
	}
	return false
}
