package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"

	"rbee"
)

// Devices lists the devices and backends of a hive's machine.
func (c *Client) Devices(ctx context.Context) (rbee.DeviceList, error) {
	return call[rbee.DeviceList](ctx, c, http.MethodGet, "/v1/devices", nil)
}

// JoinColony has a hive join a colony, and says how it stands with that. It
// returns when the colony has taken it in, or not.
func (c *Client) JoinColony(ctx context.Context, req rbee.JoinRequest) (rbee.HiveColony, error) {
	return call[rbee.HiveColony](ctx, c, http.MethodPost, "/v1/colony/join", req)
}

// LeaveColony has a hive leave its colony; none is no error.
func (c *Client) LeaveColony(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/colony", nil)
	return err
}

// Spawn asks a hive for a new worker. It returns while the worker loads.
func (c *Client) Spawn(ctx context.Context, req rbee.SpawnRequest) (rbee.SpawnReply, error) {
	return call[rbee.SpawnReply](ctx, c, http.MethodPost, "/v1/workers/spawn", req)
}

// WorkerReady tells a hive that a worker answers at a URL.
func (c *Client) WorkerReady(ctx context.Context, req rbee.ReadyRequest) (rbee.Message, error) {
	return call[rbee.Message](ctx, c, http.MethodPost, "/v1/workers/ready", req)
}

// Workers lists the live workers of a hive.
func (c *Client) Workers(ctx context.Context) ([]rbee.Worker, error) {
	l, err := call[rbee.WorkerList](ctx, c, http.MethodGet, "/v1/workers/list", nil)
	return l.Workers, err
}

// Worker asks a hive for one worker, live or ended not long ago.
func (c *Client) Worker(ctx context.Context, id rbee.WorkerID) (rbee.Worker, error) {
	return call[rbee.Worker](ctx, c, http.MethodGet, workerPath(id), nil)
}

// StopWorker drains a worker, then stops it. It returns when the process is
// gone; a worker that is not there is no error.
func (c *Client) StopWorker(ctx context.Context, id rbee.WorkerID) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, workerPath(id), nil)
	return err
}

// Pin keeps a worker from being ended for another model or by idleness.
func (c *Client) Pin(ctx context.Context, id rbee.WorkerID) (rbee.Worker, error) {
	return call[rbee.Worker](ctx, c, http.MethodPost, workerPath(id)+"/pin", nil)
}

// Unpin takes Pin back.
func (c *Client) Unpin(ctx context.Context, id rbee.WorkerID) (rbee.Worker, error) {
	return call[rbee.Worker](ctx, c, http.MethodDelete, workerPath(id)+"/pin", nil)
}

// Status tells what a hive takes on, why, and how its memory is used.
func (c *Client) Status(ctx context.Context) (rbee.HiveStatus, error) {
	return call[rbee.HiveStatus](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Cordon tells a hive to start no more workers; those it has go on.
func (c *Client) Cordon(ctx context.Context) (rbee.HiveStanding, error) {
	return call[rbee.HiveStanding](ctx, c, http.MethodPost, "/v1/cordon", nil)
}

// Uncordon takes Cordon and Drain back.
func (c *Client) Uncordon(ctx context.Context) (rbee.HiveStanding, error) {
	return call[rbee.HiveStanding](ctx, c, http.MethodPost, "/v1/uncordon", nil)
}

// Drain tells a hive to take no more requests, finish what runs and end its
// workers. It returns when the order is taken; Status tells when no worker is left.
func (c *Client) Drain(ctx context.Context) (rbee.HiveStanding, error) {
	return call[rbee.HiveStanding](ctx, c, http.MethodPost, "/v1/drain", nil)
}

// Decisions lists what a hive decided about its memory, newest first.
func (c *Client) Decisions(ctx context.Context) ([]rbee.Decision, error) {
	l, err := call[rbee.DecisionList](ctx, c, http.MethodGet, "/v1/decisions", nil)
	return l.Decisions, err
}

// WorkerLogs reads what a worker wrote, one line each, and with follow also
// what it will write until it ends. The caller closes the reader.
func (c *Client) WorkerLogs(ctx context.Context, id rbee.WorkerID, follow bool) (io.ReadCloser, error) {
	path := workerPath(id) + "/logs"
	if follow {
		path += "?follow=true"
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Events yields a snapshot of a hive, then its changes, until the hive ends or
// the reader falls behind; then the last error says so and the caller may call again.
func (c *Client) Events(ctx context.Context) iter.Seq2[rbee.Event, error] {
	return stream[rbee.Event](ctx, c, http.MethodGet, "/v1/events", nil)
}

func workerPath(id rbee.WorkerID) string { return "/v1/workers/" + url.PathEscape(string(id)) }
