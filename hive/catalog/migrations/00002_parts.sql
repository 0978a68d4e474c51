-- +goose Up
ALTER TABLE models ADD COLUMN name      TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN file_name TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN parts     TEXT NOT NULL DEFAULT ''; -- JSON of the files of a split model, '' for one file

-- +goose Down
ALTER TABLE models DROP COLUMN parts;
ALTER TABLE models DROP COLUMN file_name;
ALTER TABLE models DROP COLUMN name;
