// Package conf reads the settings of all four programs: defaults, then
// config.yaml in the state directory, then the environment, then flags. A key
// that it does not know, a value that does not fit and a file that others may
// read are errors that name the place and say what to try.
//
// It opens no network connection, starts nothing, and writes nothing but the
// empty state directory (Home.Create) and, when a user wants that, the aliases
// of config.yaml (SetAlias). Settings are values: after Load nothing changes
// them, so whoever needs one takes a copy.
package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rbee"
)

// Config holds all settings. The yaml names make the keys, and the keys make
// the names in the environment: hive.addr is RBEE_HIVE_ADDR.
type Config struct {
	Home Home `yaml:"-"`

	Hive     Hive              `yaml:"hive"`
	Worker   Worker            `yaml:"worker"`
	Queen    Queen             `yaml:"queen"`
	Engine   Engine            `yaml:"engine"`
	Models   Models            `yaml:"models"`
	Download Download          `yaml:"download"`
	Log      Log               `yaml:"log"`
	Nodes    map[string]Node   `yaml:"nodes" validate:"dive,keys,name,endkeys"`
	External map[string]Node   `yaml:"external" validate:"dive,keys,name,endkeys"` // servers of models that no hive started
	Aliases  map[string]string `yaml:"aliases" validate:"dive,keys,name,endkeys,modelref"`

	user    string            // the user's home, what ~/ stands for
	origins map[string]Origin // by key; absent for a default
}

// Hive is the section of rbee-hive, and how programs on this machine reach it.
type Hive struct {
	Addr          string `yaml:"addr" env:"ADDR" validate:"addr"`
	URL           string `yaml:"url" env:"URL" validate:"omitempty,baseurl"`
	Key           Secret `yaml:"key" env:"KEY" validate:"omitempty,apikey,excluded_with=KeyFile"`
	KeyFile       Path   `yaml:"key_file" env:"KEY_FILE" validate:"omitempty,abspath"`
	MemoryLimitMB int    `yaml:"memory_limit_mb" env:"MEMORY_LIMIT_MB" validate:"min=0"`

	LeaveFreeMB     int    `yaml:"leave_free_mb" env:"LEAVE_FREE_MB" validate:"min=0"`           // main memory, 10^6 bytes
	LeaveFreeVRAMMB int    `yaml:"leave_free_vram_mb" env:"LEAVE_FREE_VRAM_MB" validate:"min=0"` // of each accelerator
	Hours           Hours  `yaml:"hours" env:"HOURS" validate:"omitempty,hours"`                 // when workers may start; "" is always
	OnBattery       string `yaml:"on_battery" env:"ON_BATTERY" validate:"oneof=always never"`    // whether workers start
	Preload         List   `yaml:"preload" env:"PRELOAD" validate:"models"`                      // models to load at start
	WarmUp          string `yaml:"warm_up" env:"WARM_UP" validate:"oneof=on off"`                // of the likely next model
	Discover        string `yaml:"discover" env:"DISCOVER" validate:"oneof=on off"`              // external servers at the usual ports of this machine

	Name     string `yaml:"name" env:"NAME" validate:"omitempty,name"`                          // in its colony; "" is the machine's
	Join     Secret `yaml:"join" env:"JOIN" validate:"omitempty,apikey,excluded_with=JoinFile"` // token or URL of the bus of a colony
	JoinFile Path   `yaml:"join_file" env:"JOIN_FILE" validate:"omitempty,abspath"`
}

// Worker is the section of the workers that a hive starts.
type Worker struct {
	Program     Path          `yaml:"program" env:"PROGRAM" validate:"omitempty,abspath"`
	Threads     int           `yaml:"threads" env:"THREADS" validate:"min=0,max=1024"`
	Slots       int           `yaml:"slots" env:"SLOTS" validate:"min=1,max=64"`
	Context     int           `yaml:"context" env:"CONTEXT" validate:"omitempty,min=64,max=1048576"`
	Queue       int           `yaml:"queue" env:"QUEUE" validate:"min=0,max=1024"`
	KeepAlive   KeepAlive     `yaml:"keep_alive" env:"KEEP_ALIVE"`
	KeepAliveOf KeepAlives    `yaml:"keep_alive_of" env:"KEEP_ALIVE_OF" validate:"keepalives"` // of single models
	RestAfter   KeepAlive     `yaml:"rest_after" env:"REST_AFTER"`                             // 0 for half of the keep-alive
	LoadTimeout time.Duration `yaml:"load_timeout" env:"LOAD_TIMEOUT" validate:"min=1s"`
}

// Queen is the section of queen-rbee.
type Queen struct {
	Addr    string `yaml:"addr" env:"ADDR" validate:"addr"`
	Key     Secret `yaml:"key" env:"KEY" validate:"omitempty,apikey,excluded_with=KeyFile"`
	KeyFile Path   `yaml:"key_file" env:"KEY_FILE" validate:"omitempty,abspath"`
	BusAddr string `yaml:"bus_addr" env:"BUS_ADDR" validate:"addr"`       // of the colony's bus
	Join    Secret `yaml:"join" env:"JOIN" validate:"omitempty,apikey"`   // token or URL of a bus that another runs
	Names   List   `yaml:"names" env:"NAMES" validate:"hosts"`            // by which others reach this machine
	Hive    string `yaml:"hive" env:"HIVE" validate:"oneof=on off"`       // whether she starts the hive of this machine
	Queue   int    `yaml:"queue" env:"QUEUE" validate:"min=0,max=100000"` // requests that may wait
}

// Engine is the section of the llama.cpp libraries.
type Engine struct {
	Dir Path `yaml:"dir" env:"DIR" validate:"omitempty,abspath"`
}

// Models is the section of the model store.
type Models struct {
	QuotaGB float64 `yaml:"quota_gb" env:"QUOTA_GB" validate:"min=0,max=1000000"` // 10^9 bytes, 0 for no bound
}

// Download is the section of the downloads of models.
type Download struct {
	Connections    int     `yaml:"connections" env:"CONNECTIONS" validate:"min=1,max=8"`                 // for one file
	LimitMBps      float64 `yaml:"limit_mbps" env:"LIMIT_MBPS" validate:"min=0,max=1000000"`             // 10^6 bytes per second, 0 for no limit
	QuietHours     Hours   `yaml:"quiet_hours" env:"QUIET_HOURS" validate:"omitempty,hours"`             // when QuietLimitMBps holds instead
	QuietLimitMBps float64 `yaml:"quiet_limit_mbps" env:"QUIET_LIMIT_MBPS" validate:"min=0,max=1000000"` // 0 for a pause
}

// Log is the section of the programs' own log.
type Log struct {
	Level  string `yaml:"level" env:"LEVEL" validate:"oneof=debug info warn error"`
	Format string `yaml:"format" env:"FORMAT" validate:"oneof=auto text json"`
}

// Node is a hive on another machine, or an external server.
type Node struct {
	URL     string `yaml:"url" env:"URL" validate:"required,baseurl"`
	Key     Secret `yaml:"key" env:"KEY" validate:"omitempty,apikey,excluded_with=KeyFile"`
	KeyFile Path   `yaml:"key_file" env:"KEY_FILE" validate:"omitempty,abspath"`
}

// Defaults are the settings of an empty configuration. The reference file
// says the same in words.
func Defaults() Config {
	return Config{
		Hive: Hive{Addr: "127.0.0.1:8080", LeaveFreeMB: 256, LeaveFreeVRAMMB: 256, OnBattery: "always", WarmUp: "on", Discover: "off"},
		Worker: Worker{
			Slots:       4,
			Queue:       16,
			KeepAlive:   KeepAlive(5 * time.Minute),
			LoadTimeout: 5 * time.Minute,
		},
		Queen:    Queen{Addr: "127.0.0.1:7833", BusAddr: ":7834", Hive: "on", Queue: 100},
		Download: Download{Connections: 8},
		Log:      Log{Level: "info", Format: "auto"},
		Nodes:    map[string]Node{},
		External: map[string]Node{},
		Aliases: map[string]string{
			"tinyllama": "hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF::tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
			"qwen":      "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF::qwen2.5-0.5b-instruct-q4_k_m.gguf",
			"phi3":      "hf:microsoft/Phi-3-mini-4k-instruct-gguf::Phi-3-mini-4k-instruct-q4.gguf",
			"llama3":    "hf:QuantFactory/Meta-Llama-3-8B-Instruct-GGUF::Meta-Llama-3-8B-Instruct.Q4_K_M.gguf",
			"llama2":    "hf:TheBloke/Llama-2-7B-GGUF::llama-2-7b.Q8_0.gguf",
			"mistral":   "hf:TheBloke/Mistral-7B-Instruct-v0.2-GGUF::mistral-7b-instruct-v0.2.Q4_K_M.gguf",
		},
		origins: map[string]Origin{},
	}
}

// Options says where Load looks. The zero value is what a program wants.
type Options struct {
	Home     string        // state directory; default RBEE_HOME, then ~/.rbee
	Environ  []string      // NAME=value; default the environment of the process
	Override func(*Config) // sets what flags say; runs last, before the last check
}

// Load reads the settings. Whatever is wrong with them comes back as one
// *rbee.Error with the code INVALID_REQUEST that names the file, line and
// column, or the variable, of the first fault and lists all of its layer.
// A state directory or file that does not exist is no fault.
func Load(o Options) (Config, error) {
	environ := o.environ()
	home, err := findHome(o.Home, environ)
	if err != nil {
		return Config{}, err
	}
	c := Defaults()
	c.Home = home
	c.user, _ = userHome(environ) // without one, ~/ is no absolute path and is refused
	text, err := readPrivate(home.ConfigFile(), maxFileBytes, othersMask)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Config{}, err
	default:
		if err := c.readFile(home.ConfigFile(), text); err != nil {
			return Config{}, err
		}
	}
	if err := c.readEnviron(environ); err != nil {
		return Config{}, err
	}
	if o.Override != nil {
		if err := c.override(o.Override); err != nil {
			return Config{}, err
		}
	}
	c.takeCredentials(environ)
	return c, nil
}

func (o Options) environ() map[string]string {
	if o.Environ == nil {
		return toMap(os.Environ())
	}
	return toMap(o.Environ)
}

// EnginesDir is where the engine's libraries are: engine.dir, or a folder of
// the state directory.
func (c Config) EnginesDir() string {
	if c.Engine.Dir != "" {
		return string(c.Engine.Dir)
	}
	return c.Home.EnginesDir()
}

// Resolve reads what a user calls a model: an alias of the configuration, or
// anything that rbee.ParseModelRef takes.
func (c Config) Resolve(model string) (rbee.ModelRef, error) {
	if ref, ok := c.Aliases[model]; ok {
		return rbee.ParseModelRef(ref)
	}
	return rbee.ParseModelRef(model)
}

// KeepAliveOf is how long a worker of a model may be idle.
func (c Config) KeepAliveOf(ref rbee.ModelRef) KeepAlive {
	for model, k := range c.Worker.KeepAliveOf.each() {
		if named, err := c.Resolve(model); err == nil && named == ref {
			return k
		}
	}
	return c.Worker.KeepAlive
}

// FindHome finds the state directory in an environment, nil for that of the
// process, without reading the settings in it.
func FindHome(environ []string) (Home, error) {
	return findHome("", Options{Environ: environ}.environ())
}

// findHome decides on the state directory. It must not depend on the working
// directory, or two programs would not find one another, hence the absolute path.
func findHome(dir string, environ map[string]string) (Home, error) {
	if dir == "" {
		dir = environ["RBEE_HOME"]
	}
	if dir == "" {
		user, err := userHome(environ)
		if err != nil {
			return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot find the state directory: %w", err).
				Suggest("set RBEE_HOME to a directory that rbee may write to")
		}
		return Home(filepath.Join(user, ".rbee")), nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot find the state directory %s: %w", dir, err).
			Suggest("set RBEE_HOME to an absolute path")
	}
	return Home(abs), nil
}

// userHome is os.UserHomeDir for a given environment.
func userHome(environ map[string]string) (string, error) {
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if dir := environ[name]; filepath.IsAbs(dir) {
			return dir, nil
		}
	}
	return "", errors.New("neither RBEE_HOME nor HOME is set to an absolute path")
}

func toMap(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			m[name] = value
		}
	}
	return m
}
