package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rbee"
	"rbee/internal/sqlite"
)

const columns = `reference, provider, local_path, size_bytes, downloaded_at, sha256, quantisation, architecture,
	context_length, parameters, revision, etag, last_used, use_count, name, file_name, parts`

const byRef = " FROM models WHERE reference = ? AND provider = ?"

// Model implements Catalog.
func (d *Database) Model(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	m, err := scan(d.db.QueryRowContext(ctx, "SELECT "+columns+byRef, ref.Reference, ref.Provider))
	if errors.Is(err, sql.ErrNoRows) {
		return rbee.Model{}, fmt.Errorf("cannot find %s: %w", ref, ErrNoRow)
	}
	return m, d.explain("read", err)
}

// cache is the answer of Models. To read ten thousand rows takes SQLite a tenth
// of a second; our own writes change the cache as they change the table, and a
// write of another program makes it void.
type cache struct {
	mu      sync.Mutex
	models  []rbee.Model // by provider and reference; nil: not known
	conn    any          // the connection of the driver that version is of
	version int64        // changes when another connection writes
}

// find is called with mu held.
func (c *cache) find(ref rbee.ModelRef) (i int, ok bool) {
	return slices.BinarySearchFunc(c.models, ref, func(m rbee.Model, ref rbee.ModelRef) int {
		return cmp.Or(cmp.Compare(m.Provider, ref.Provider), cmp.Compare(m.Reference, ref.Reference))
	})
}

// Models implements Catalog.
func (d *Database) Models(ctx context.Context) (models []rbee.Model, err error) {
	d.list.mu.Lock()
	defer d.list.mu.Unlock()
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, d.explain("read", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var driver any
	var version int64
	if err := conn.Raw(func(c any) error { driver = c; return nil }); err != nil {
		return nil, d.explain("read", err)
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version); err != nil {
		return nil, d.explain("read", err)
	}
	if d.list.models == nil || d.list.conn != driver || d.list.version != version {
		d.list.models = nil
		all, err := d.rows(conn.QueryContext(ctx, "SELECT "+columns+" FROM models ORDER BY provider, reference"))
		if err != nil {
			return nil, err
		}
		d.list.models, d.list.conn, d.list.version = all, driver, version
	}
	return slices.Clone(d.list.models), nil
}

// ByPath implements Catalog.
func (d *Database) ByPath(ctx context.Context, path string) ([]rbee.Model, error) {
	return d.rows(d.db.QueryContext(ctx, "SELECT "+columns+" FROM models WHERE local_path = ? ORDER BY provider, reference", path))
}

// rows reads the answer to a query.
func (d *Database) rows(rows *sql.Rows, err error) (models []rbee.Model, _ error) {
	if err != nil {
		return nil, d.explain("read", err)
	}
	models = []rbee.Model{}
	for rows.Next() {
		m, err := scan(rows)
		if err != nil {
			return nil, d.explain("read", errors.Join(err, rows.Close()))
		}
		models = append(models, m)
	}
	return models, d.explain("read", errors.Join(rows.Err(), rows.Close()))
}

// Put implements Catalog.
func (d *Database) Put(ctx context.Context, m rbee.Model) error {
	parts := ""
	if len(m.Parts) > 0 {
		b, err := json.Marshal(m.Parts)
		if err != nil {
			return fmt.Errorf("cannot encode the parts of %s: %w", m.Ref(), err)
		}
		parts = string(b)
	}
	change := func() {
		i, ok := d.list.find(m.Ref())
		if !ok {
			d.list.models = slices.Insert(d.list.models, i, m)
			return
		}
		m.LastUsed, m.UseCount = d.list.models[i].LastUsed, d.list.models[i].UseCount
		d.list.models[i] = m
	}
	return d.write(ctx, change, "INSERT INTO models ("+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (reference, provider) DO UPDATE SET
			local_path = excluded.local_path, size_bytes = excluded.size_bytes, downloaded_at = excluded.downloaded_at,
			sha256 = excluded.sha256, quantisation = excluded.quantisation, architecture = excluded.architecture,
			context_length = excluded.context_length, parameters = excluded.parameters,
			revision = excluded.revision, etag = excluded.etag,
			name = excluded.name, file_name = excluded.file_name, parts = excluded.parts`,
		m.Reference, m.Provider, m.LocalPath, m.SizeBytes, timeText(m.DownloadedAt), m.SHA256, m.Quantisation, m.Architecture,
		m.ContextLength, m.Parameters, m.Revision, m.ETag, timeText(m.LastUsed), m.UseCount, m.Name, m.FileName, parts)
}

// Remove implements Catalog.
func (d *Database) Remove(ctx context.Context, ref rbee.ModelRef) error {
	change := func() {
		if i, ok := d.list.find(ref); ok {
			d.list.models = slices.Delete(d.list.models, i, i+1)
		}
	}
	return d.write(ctx, change, "DELETE"+byRef, ref.Reference, ref.Provider)
}

// Touch implements Catalog.
func (d *Database) Touch(ctx context.Context, ref rbee.ModelRef, at time.Time) error {
	var newest sql.NullString
	if err := d.db.QueryRowContext(ctx, "SELECT max(last_used) FROM models").Scan(&newest); err != nil {
		return d.explain("read", err)
	}
	last, err := textTime(newest.String)
	if err != nil {
		return d.explain("read", err)
	}
	at = Use(at, last)
	change := func() {
		if i, ok := d.list.find(ref); ok {
			d.list.models[i].LastUsed = at.UTC()
			d.list.models[i].UseCount++
		}
	}
	return d.write(ctx, change, "UPDATE models SET last_used = ?, use_count = use_count + 1 WHERE reference = ? AND provider = ?",
		timeText(at), ref.Reference, ref.Provider)
}

// clockSlack is by how much a use may be dated before another and be left so.
const clockSlack = time.Minute

// Use is the date of a use at a time after another one. The second makes it the
// later one also for who compares the texts.
func Use(at, last time.Time) time.Time {
	if last.Sub(at) < clockSlack {
		return at
	}
	return last.Add(time.Second)
}

// write runs a statement, and does to the list, if there is one, what the
// statement did to the table.
func (d *Database) write(ctx context.Context, change func(), statement string, args ...any) error {
	d.list.mu.Lock()
	defer d.list.mu.Unlock()
	_, err := d.db.ExecContext(ctx, statement, args...)
	switch {
	case err != nil:
		d.list.models = nil // nobody knows
	case d.list.models != nil:
		change()
	}
	return d.explain("write", err)
}

func (d *Database) explain(verb string, err error) error {
	return sqlite.Explain(verb+" the model catalog "+filepath.Base(d.path), err)
}

func scan(row interface{ Scan(...any) error }) (rbee.Model, error) {
	var m rbee.Model
	var downloaded, used, parts string
	err := row.Scan(&m.Reference, &m.Provider, &m.LocalPath, &m.SizeBytes, &downloaded, &m.SHA256, &m.Quantisation, &m.Architecture,
		&m.ContextLength, &m.Parameters, &m.Revision, &m.ETag, &used, &m.UseCount, &m.Name, &m.FileName, &parts)
	if err != nil {
		return rbee.Model{}, err
	}
	if parts != "" {
		if err := json.Unmarshal([]byte(parts), &m.Parts); err != nil {
			return rbee.Model{}, fmt.Errorf("the parts of %s: %w", m.Ref(), err)
		}
	}
	if m.DownloadedAt, err = textTime(downloaded); err != nil {
		return rbee.Model{}, err
	}
	m.LastUsed, err = textTime(used)
	return m, err
}

// timeText is a time as the database holds it; the zero time is empty.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func textTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, s)
}
