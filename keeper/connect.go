package keeper

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/supervise"
)

const (
	defaultAttempts = 3
	// attemptTime bounds one attempt to reach a hive.
	attemptTime = 10 * time.Second
	// The pauses before the second and third attempt are 200 and 400 ms.
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
)

// hiveRecord is run/hive.json, which the daemon of the state directory keeps
// as long as it runs.
type hiveRecord struct {
	PID     int       `json:"pid"`
	URL     string    `json:"url"`
	Started time.Time `json:"started"`
}

// readHiveRecord returns the record and whether its process lives.
func readHiveRecord(home conf.Home) (hiveRecord, bool) {
	var r hiveRecord
	data, err := os.ReadFile(filepath.Join(home.RunDir(), "hive.json"))
	if err != nil || json.Unmarshal(data, &r) != nil || r.PID <= 0 || r.URL == "" {
		return hiveRecord{}, false
	}
	_, err = supervise.StartTime(r.PID)
	return r, err == nil
}

// colony is the hive that a command talks to, or the queen of all hives.
type colony struct {
	target
	client  *client.Client
	health  rbee.Health
	private *privateHive // nil for a hive that was running
	queen   bool
	node    string // of a queen: the hive that must serve, "" for any
}

// role is who answers there.
func (c *colony) role() string {
	if c.queen {
		return "queen"
	}
	return "hive"
}

// access says how a command reaches its hive.
type access struct {
	node     string
	private  bool // start a private hive if none runs on this machine
	attempts int
}

// connect finds the hive of a command, starts a private one if that is wanted
// and none runs, and checks that it answers, speaks our version and takes our
// key. The caller closes the colony.
func (a *app) connect(ctx context.Context, cfg conf.Config, how access) (*colony, error) {
	t, err := findTarget(cfg, how.node)
	if err != nil {
		return nil, err
	}
	c := &colony{target: t}
	if how.node == "" && !(t.ownDaemon && answers(ctx, t)) {
		if !how.private {
			return nil, noHive()
		}
		if c.private, err = startPrivateHive(ctx, cfg); err != nil {
			return nil, err
		}
		key := c.private.key
		if c.target, err = newTarget(c.private.url); err != nil {
			return nil, c.abandon(ctx, err)
		}
		c.key, c.local, c.keyPlace = key, true, "hive.key in "+cfg.Home.ConfigFile()
	}
	c.client = client.New(c.base, client.Key(c.key.Reveal()))
	if err := c.preflight(ctx, how.attempts); err != nil {
		return nil, c.abandon(ctx, err)
	}
	return c, nil
}

func noHive() error {
	return rbee.Errorf(rbee.CodeHiveNotFound, "no hive is running on this machine").Suggest("start one with 'rbee hive start'")
}

// answers says whether a hive is behind a record: its process may have died
// without a word, and its pid may name another by now.
func answers(ctx context.Context, t target) bool {
	return answersAt(ctx, t.base)
}

func (c *colony) abandon(ctx context.Context, err error) error {
	c.close(ctx)
	return err
}

// close takes a private hive down. It blocks until its process is gone.
func (c *colony) close(ctx context.Context) {
	if c.private != nil {
		c.private.stop(context.WithoutCancel(ctx))
	}
	if c.client != nil {
		c.client.Close()
	}
}

// preflight checks reach, version and key, in this order.
func (c *colony) preflight(ctx context.Context, attempts int) error {
	var err error
	c.health, err = c.reach(ctx, attempts)
	if err != nil {
		return err
	}
	if err := c.checkVersion(); err != nil {
		return err
	}
	// Health is open to all; the rest is not.
	if c.queen {
		_, err = c.client.QueenStatus(ctx)
	} else {
		_, err = c.client.Workers(ctx)
	}
	return c.explain(err)
}

// reach asks for the hive's health, again when nothing answers.
func (c *colony) reach(ctx context.Context, attempts int) (rbee.Health, error) {
	policy := retrypolicy.NewBuilder[rbee.Health]().
		HandleIf(func(_ rbee.Health, err error) bool { return client.IsCut(err) }).
		WithMaxAttempts(attempts).
		WithBackoff(firstPause, lastPause).
		ReturnLastFailure().
		Build()
	health, err := failsafe.With(policy).WithContext(ctx).Get(func() (rbee.Health, error) {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		return c.client.Health(attempt)
	})
	switch {
	case ctx.Err() != nil:
		return health, context.Cause(ctx)
	case client.IsCut(err):
		return health, rbee.Errorf(rbee.CodeConnectionTimeout, "Cannot connect to %s after %s", c.host, plural(attempts, "attempt")).
			WithCause(err).Suggest("%s", c.remedy)
	}
	return health, c.explain(err)
}

// checkVersion refuses a daemon of another API, or of a release before 1.0 that
// differs in more than its last number.
func (c *colony) checkVersion() error {
	h := c.health
	if h.APIVersion == rbee.APIVersion && release(h.Version) == release(rbee.Version) {
		return nil
	}
	older := "rbee on this machine"
	if olderThan(h.Version, rbee.Version) {
		program := "rbee-hive"
		if c.queen {
			program = "queen-rbee"
		}
		older = program + " on " + c.host
	}
	return rbee.Errorf(rbee.CodeVersionMismatch, "versions differ: the %s on %s is %s (API %s), this rbee is %s (API %s)",
		c.role(), c.host, h.Version, h.APIVersion, rbee.Version, rbee.APIVersion).
		With(c.role()+"_version", h.Version).With("keeper_version", rbee.Version).
		Suggest("upgrade %s", older)
}

// release is the part of a version that programs must have in common.
func release(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func olderThan(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		if errX != nil || errY != nil {
			return as[i] < bs[i]
		}
		if x != y {
			return x < y
		}
	}
	return len(as) < len(bs)
}

// explain makes a failure to prove who we are one that names the place of the key.
func (c *colony) explain(err error) error {
	switch rbee.CodeOf(err) {
	case rbee.CodeInvalidAPIKey, rbee.CodeMissingAPIKey:
		return rbee.Errorf(rbee.CodeOf(err), "Authentication failed: the %s on %s does not take the key", c.role(), c.host).
			WithCause(err).Suggest("check %s; it must be the %s.key of the %s", c.keyPlace, c.role(), c.role())
	}
	return err
}

// worker is the client for the API of a worker, through the hive. The address
// is the one at which this program reaches the hive, which the hive need not know.
func (c *colony) worker(id rbee.WorkerID) *client.Client {
	return c.client.At(c.base + "/v1/workers/" + string(id))
}
