package rbee

// DownloadID names one wish for a download. Several wishes for one model share
// the download; it is cancelled when the last one is.
type DownloadID string

// DownloadRequest asks a hive to bring a model to its disk.
type DownloadRequest struct {
	ModelRef  string  `json:"model_ref" minLength:"1" maxLength:"512" example:"hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"`
	LimitMBps float64 `json:"limit_mbps,omitempty" minimum:"0" doc:"most 10^6 bytes per second of this download; 0 is the limit of the settings"`
}

// DownloadReply is the answer to DownloadRequest: the download runs.
type DownloadReply struct {
	DownloadID DownloadID `json:"download_id"`
	LocalPath  string     `json:"local_path" doc:"where the file is, or is going to be"`
}

// DownloadStage is a step of DownloadProgress.
type DownloadStage string

// Stages of a download. The last three are its end.
const (
	DownloadResolving   DownloadStage = "resolving"   // the hub is asked for the files
	DownloadDownloading DownloadStage = "downloading" // bytes arrive
	DownloadVerifying   DownloadStage = "verifying"   // all are there, the digest is compared
	DownloadComplete    DownloadStage = "complete"    // LocalPath is the file
	DownloadCached      DownloadStage = "cached"      // it was there, nothing was fetched
	DownloadError       DownloadStage = "error"       // Error says why
)

// Final says whether the download is over.
func (s DownloadStage) Final() bool {
	return s == DownloadComplete || s == DownloadCached || s == DownloadError
}

// DownloadProgress is one event of GET /v1/models/download/progress. All who
// watch a download see the same; who comes late sees the present state first.
type DownloadProgress struct {
	Stage           DownloadStage `json:"stage" enum:"resolving,downloading,verifying,complete,cached,error"`
	BytesDownloaded int64         `json:"bytes_downloaded" doc:"of all files, with what an earlier try had"`
	BytesTotal      int64         `json:"bytes_total" doc:"of all files, 0 as long as it is not known"`
	SpeedMBps       float64       `json:"speed_mbps" doc:"10^6 bytes per second, of the last seconds"`
	ETASeconds      float64       `json:"eta_seconds" doc:"0 as long as it is not known"`
	Connections     int           `json:"connections,omitempty" doc:"ranges that are fetched in parallel"`
	Files           int           `json:"files,omitempty" doc:"files of the model"`
	LocalPath       string        `json:"local_path,omitempty"`
	Note            string        `json:"note,omitempty" doc:"the last thing that happened, such as a resumption, another attempt, a fresh start, or models removed for the quota"`
	Error           *Error        `json:"error,omitempty"`
}

// Download is a running download as events tell of it.
type Download struct {
	ModelRef ModelRef `json:"model_ref"`
	DownloadProgress
}
