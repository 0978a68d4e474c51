package keeper

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
)

const (
	joinFile   = "join"    // of a state directory: how its hive finds its colony
	hiveIDFile = "hive-id" // of a state directory
	// joinTime bounds how long a hive may take until a queen lists it.
	joinTime = 30 * time.Second
	joinLook = 250 * time.Millisecond
	// maxJoinBytes bounds a token or URL.
	maxJoinBytes = 4096
	// maxTokenName is what a queen takes for one.
	maxTokenName = 64
)

// joinText is what --join names: a token, the URL of a bus, or "-" for one of
// these on standard input.
func (a *app) joinText(cmd *cobra.Command, flag string) (string, error) {
	text := flag
	if flag == "-" {
		b, err := io.ReadAll(io.LimitReader(a.in, maxJoinBytes+1))
		if err != nil {
			return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the token from standard input: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	known := false
	for _, begin := range []string{"rbee1.", "nats://", "tls://"} {
		known = known || strings.HasPrefix(text, begin)
	}
	if !known || len(text) > maxJoinBytes || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", usagef(cmd, "--join wants a token, as 'rbee queen token' prints it, or the URL of a bus (nats:// or tls://)")
	}
	return text, nil
}

// joining is what is known of a hive's way into a colony.
type joining struct {
	queen *colony // of this machine, nil without one
	text  string  // what --join says
	fresh bool    // the far side was told anew
	told  bool    // the far side knows a colony
}

// tell lets the hive know its colony, unless it knows and is there: by what
// --join says, else by a token of the queen of this machine.
func (j *joining) tell(ctx context.Context, h *remoteHive) error {
	had, err := h.read(ctx, joinFile)
	if err != nil {
		return err
	}
	text := j.text
	switch {
	case text != "" && text == had:
		j.told = true
		return nil
	case text != "":
	case j.queen == nil:
		j.told = had != ""
		return nil
	default:
		if had != "" {
			if _, listed, err := j.listed(ctx, h); err != nil || listed {
				j.told = listed
				return err
			}
		}
		reply, err := j.queen.client.NewToken(ctx, rbee.TokenRequest{Name: h.host[:min(len(h.host), maxTokenName)]})
		if err != nil {
			return j.queen.explain(err)
		}
		text = reply.Token
	}
	if err := h.write(ctx, joinFile, text); err != nil {
		return err
	}
	j.told, j.fresh = true, true
	if id := tokenID(had); id != "" && j.queen != nil {
		_ = j.queen.client.RevokeToken(ctx, id) // nobody holds it any more; another queen's is none of ours
	}
	return nil
}

// listed says whether the queen lists the hive as present.
func (j *joining) listed(ctx context.Context, h *remoteHive) (rbee.ColonyHive, bool, error) {
	id, err := h.read(ctx, hiveIDFile)
	if err != nil || id == "" {
		return rbee.ColonyHive{}, false, err
	}
	hives, err := j.queen.client.Hives(ctx)
	for _, hive := range hives {
		if string(hive.ID) == id && hive.Presence == rbee.HivePresent {
			return hive, true, nil
		}
	}
	return rbee.ColonyHive{}, false, err
}

// await blocks until the hive is in its colony, as it says itself, and the queen
// of this machine lists it, if there is one.
func (j *joining) await(ctx context.Context, h *remoteHive) (rbee.ColonyHive, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	why := rbee.Errorf(rbee.CodeConnectionTimeout, "the queen does not hear of it")
	for {
		hive, in, err := j.look(ctx, h)
		var e *rbee.Error
		switch {
		case ctx.Err() == nil && err == nil && in:
			return hive, nil
		case ctx.Err() == nil && errors.As(err, &e):
			why = e
		case ctx.Err() == nil && err != nil:
			return hive, err
		}
		if ctx.Err() == nil && !refusedForGood(why.Code) && pause(ctx, joinLook) == nil {
			continue
		}
		if interrupted(ctx) {
			return hive, context.Cause(ctx)
		}
		remedy := why.Suggestion()
		if remedy == "" {
			remedy = "the port of the queen's bus (7834) must be reachable from there; see 'rbee hive logs " + h.host + "'"
		}
		return hive, rbee.Errorf(why.Code, "the hive on %s runs, but is not in the colony: %s", h.host, why.Message).Suggest("%s", remedy)
	}
}

// look says whether the hive is in its colony. An error says why not.
func (j *joining) look(ctx context.Context, h *remoteHive) (rbee.ColonyHive, bool, error) {
	now, err := h.status(ctx)
	switch {
	case err != nil:
		return rbee.ColonyHive{}, false, err
	case now.Status == nil || now.Status.Colony == nil:
		return rbee.ColonyHive{}, false, rbee.Errorf(rbee.CodeInternalError, "it did not find the token")
	case !now.Status.Colony.Connected && now.Status.Colony.Error != nil:
		return rbee.ColonyHive{}, false, now.Status.Colony.Error
	case !now.Status.Colony.Connected:
		return rbee.ColonyHive{}, false, nil
	case j.queen == nil:
		id, err := h.read(ctx, hiveIDFile)
		return rbee.ColonyHive{ID: rbee.HiveID(id)}, err == nil, err
	}
	return j.listed(ctx, h)
}

// tokenID is the name of a token, which is no secret, "" for a URL.
func tokenID(join string) string {
	body, ok := strings.CutPrefix(join, "rbee1.")
	if !ok {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(body, "="))
	if err != nil {
		return ""
	}
	var t struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(b, &t)
	return t.ID
}
