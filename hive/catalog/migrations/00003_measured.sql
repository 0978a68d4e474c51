-- +goose Up
CREATE TABLE measured (
    model          TEXT    NOT NULL, -- digest of the file, or its path and size
    backend        TEXT    NOT NULL,
    device         TEXT    NOT NULL,
    context_tokens INTEGER NOT NULL,
    kv_tokens      INTEGER NOT NULL,
    slots          INTEGER NOT NULL,
    memory         TEXT    NOT NULL, -- JSON of bytes by device
    mapped         INTEGER NOT NULL, -- bytes of main memory that are mapped files
    measured_at    TEXT    NOT NULL, -- RFC 3339, UTC
    PRIMARY KEY (model, backend, device, context_tokens, kv_tokens, slots)
) STRICT;

-- +goose Down
DROP TABLE measured;
