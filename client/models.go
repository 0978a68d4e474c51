package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"rbee"
)

// Models lists the catalog of a hive.
func (c *Client) Models(ctx context.Context) ([]rbee.Model, error) {
	l, err := call[rbee.ModelList](ctx, c, http.MethodGet, "/v1/models", nil)
	return l.Models, err
}

// Model tells of one model that is on the disk of a hive.
func (c *Client) Model(ctx context.Context, ref string) (rbee.ModelDetails, error) {
	return call[rbee.ModelDetails](ctx, c, http.MethodGet, "/v1/models/"+refPath(ref), nil)
}

// Variants lists what a repository of the hub offers, best first.
func (c *Client) Variants(ctx context.Context, ref string) (rbee.VariantList, error) {
	return call[rbee.VariantList](ctx, c, http.MethodGet, "/v1/models/variants"+"?ref="+url.QueryEscape(ref), nil)
}

// SearchModels finds repositories on the hub, the most downloaded first.
func (c *Client) SearchModels(ctx context.Context, words string, limit int) ([]rbee.HubModel, error) {
	q := url.Values{"q": {words}, "limit": {strconv.Itoa(limit)}}
	l, err := call[rbee.HubModelList](ctx, c, http.MethodGet, "/v1/models/search"+"?"+q.Encode(), nil)
	return l.Models, err
}

// Usage tells what the models of a hive take on its disk.
func (c *Client) Usage(ctx context.Context) (rbee.Usage, error) {
	return call[rbee.Usage](ctx, c, http.MethodGet, "/v1/models/usage", nil)
}

// Download asks a hive to bring a model to its disk. It returns when the hive
// knows where the file is going to be.
func (c *Client) Download(ctx context.Context, req rbee.DownloadRequest) (rbee.DownloadReply, error) {
	return call[rbee.DownloadReply](ctx, c, http.MethodPost, "/v1/models/download", req)
}

// DownloadProgress yields the present state of a download, then each further
// one until a final one.
func (c *Client) DownloadProgress(ctx context.Context, id rbee.DownloadID) iter.Seq2[rbee.DownloadProgress, error] {
	return stream[rbee.DownloadProgress](ctx, c, http.MethodGet, "/v1/models/download/progress"+"?id="+url.QueryEscape(string(id)), nil)
}

// CancelDownload takes a wish for a download back. What has arrived stays on
// the disk, and a later download goes on from there.
func (c *Client) CancelDownload(ctx context.Context, id rbee.DownloadID) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/models/download/"+url.PathEscape(string(id)), nil)
	return err
}

// RemoveModel takes a model out of the catalog and its file out of the store;
// a model that is not there is no error.
func (c *Client) RemoveModel(ctx context.Context, ref string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/models/"+refPath(ref), nil)
	return err
}

// VerifyModels reads model files and compares their digests. It yields the
// progress; leaving the loop ends the work.
func (c *Client) VerifyModels(ctx context.Context, req rbee.VerifyRequest) iter.Seq2[rbee.StoreProgress, error] {
	return stream[rbee.StoreProgress](ctx, c, http.MethodPost, "/v1/models/verify", req)
}

// ImportModels takes GGUF files of the hive's machine into its store. It yields
// the progress; leaving the loop ends the work.
func (c *Client) ImportModels(ctx context.Context, req rbee.ImportRequest) iter.Seq2[rbee.StoreProgress, error] {
	return stream[rbee.StoreProgress](ctx, c, http.MethodPost, "/v1/models/import", req)
}

// ExportModel gives a model a name outside the store of a hive. It yields the
// progress; leaving the loop ends the work.
func (c *Client) ExportModel(ctx context.Context, req rbee.ExportRequest) iter.Seq2[rbee.StoreProgress, error] {
	return stream[rbee.StoreProgress](ctx, c, http.MethodPost, "/v1/models/export", req)
}

// CollectModels removes the files that no model of a hive needs.
func (c *Client) CollectModels(ctx context.Context, req rbee.GCRequest) (rbee.GCReply, error) {
	return call[rbee.GCReply](ctx, c, http.MethodPost, "/v1/models/gc", req)
}

// refPath is a model reference as it stands in a path, with its slashes.
func refPath(ref string) string {
	elements := strings.Split(ref, "/")
	for i, e := range elements {
		elements[i] = url.PathEscape(e)
	}
	return strings.Join(elements, "/")
}
