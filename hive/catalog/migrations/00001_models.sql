-- +goose Up
CREATE TABLE models (
    reference      TEXT    NOT NULL,
    provider       TEXT    NOT NULL,
    local_path     TEXT    NOT NULL,
    size_bytes     INTEGER NOT NULL,
    downloaded_at  TEXT    NOT NULL, -- RFC 3339, UTC
    sha256         TEXT    NOT NULL DEFAULT '',
    quantisation   TEXT    NOT NULL DEFAULT '',
    architecture   TEXT    NOT NULL DEFAULT '',
    context_length INTEGER NOT NULL DEFAULT 0,
    parameters     INTEGER NOT NULL DEFAULT 0,
    revision       TEXT    NOT NULL DEFAULT '',
    etag           TEXT    NOT NULL DEFAULT '',
    last_used      TEXT    NOT NULL DEFAULT '',
    use_count      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (reference, provider)
) STRICT;
CREATE INDEX models_by_path ON models (local_path);

-- +goose Down
DROP TABLE models;
