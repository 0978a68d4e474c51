package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rbee"
)

// keptLoads is how many measured loads are remembered, the newest ones.
const keptLoads = 1000

// LoadKey says what was loaded, and how.
type LoadKey struct {
	Model    string // digest of the file, or its path and size
	Backend  rbee.Backend
	Device   rbee.DeviceID
	Context  int // tokens of one request
	KVTokens int
	Slots    int
}

// Load is the memory that a worker took.
type Load struct {
	Memory rbee.Memory // by device
	Mapped int64       // of main memory, the bytes of mapped files
}

// Loads remembers what loads took.
type Loads interface {
	// Load finds what was measured at the last load; nothing was: ErrNoRow.
	Load(ctx context.Context, key LoadKey) (Load, error)
	// PutLoad remembers a load in place of an earlier one.
	PutLoad(ctx context.Context, key LoadKey, l Load, at time.Time) error
}

// Load implements Loads.
func (d *Database) Load(ctx context.Context, k LoadKey) (l Load, err error) {
	var memory string
	err = d.db.QueryRowContext(ctx, `SELECT memory, mapped FROM measured
		WHERE model = ? AND backend = ? AND device = ? AND context_tokens = ? AND kv_tokens = ? AND slots = ?`,
		k.Model, k.Backend, k.Device, k.Context, k.KVTokens, k.Slots).Scan(&memory, &l.Mapped)
	if errors.Is(err, sql.ErrNoRows) {
		return Load{}, fmt.Errorf("cannot find a load of %s: %w", k.Model, ErrNoRow)
	}
	if err == nil {
		err = json.Unmarshal([]byte(memory), &l.Memory)
	}
	return l, d.explain("read", err)
}

// PutLoad implements Loads.
func (d *Database) PutLoad(ctx context.Context, k LoadKey, l Load, at time.Time) error {
	memory, err := json.Marshal(l.Memory)
	if err != nil {
		return fmt.Errorf("cannot encode a load of %s: %w", k.Model, err)
	}
	_, err = d.db.ExecContext(ctx, `INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.Model, k.Backend, k.Device, k.Context, k.KVTokens, k.Slots, string(memory), l.Mapped, timeText(at))
	if err == nil {
		// A row that is written gets the highest rowid, whatever the clock said then.
		_, err = d.db.ExecContext(ctx, `DELETE FROM measured WHERE rowid IN
			(SELECT rowid FROM measured ORDER BY rowid DESC LIMIT -1 OFFSET ?)`, keptLoads)
	}
	return d.explain("write", err)
}
