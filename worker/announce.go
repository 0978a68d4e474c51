package worker

import (
	"context"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"rbee"
	"rbee/client"
)

// readyPath is the endpoint of a hive that hears of workers.
const readyPath = "/v1/workers/ready"

const (
	callbackTries   = 5
	callbackTimeout = 5 * time.Second // of one try
)

// announce tells the hive that the worker answers at url. A worker whose hive
// cannot be told would serve nobody and end with nobody, so it fails then.
func (w *Worker) announce(ctx context.Context, url string) error {
	if w.cfg.CallbackURL == "" {
		w.log.Info("listening", "addr", url)
		return nil
	}
	hive := client.New(strings.TrimSuffix(w.cfg.CallbackURL, readyPath), client.Key(w.cfg.CallbackKey))
	defer hive.Close()
	policy := retrypolicy.NewBuilder[any]().
		WithBackoff(100*time.Millisecond, 2*time.Second).
		WithMaxAttempts(callbackTries).
		HandleIf(func(_ any, err error) bool { return err != nil && worthARetry(err) }).
		ReturnLastFailure().
		Build()
	err := failsafe.With[any](policy).WithContext(ctx).Run(func() error {
		try, cancel := context.WithTimeout(ctx, callbackTimeout)
		defer cancel()
		_, err := hive.WorkerReady(try, rbee.ReadyRequest{
			WorkerID: w.cfg.ID, URL: url, ModelRef: w.cfg.ModelRef,
			Backend: w.cfg.Options.Backend, Device: w.cfg.Options.Device,
		})
		return err
	})
	switch {
	case err == nil:
		w.log.Info("the hive knows", "addr", url)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	cause := rbee.AsError(err)
	return rbee.Errorf(cause.Code, "cannot tell the hive at %s that worker %s answers: %s", hive.Base(), w.cfg.ID, cause.Message).
		WithCause(err).Suggest("check that rbee-hive runs there and that the key is its key")
}

// worthARetry tells a hive that is slow or restarts from one that refuses.
func worthARetry(err error) bool {
	code := rbee.CodeOf(err)
	return code == rbee.CodeConnectionTimeout || code.Status() >= 500
}
