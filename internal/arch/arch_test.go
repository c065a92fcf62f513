package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/choria-io/prometheus-streams/"

// doors lists every room and the rooms that it may import.
var doors = map[string][]string{
	"cmd/prometheus-streams": {"*"},

	"internal/arch":              {},
	"internal/bounded":           {},
	"internal/config":            {"internal/bounded"},
	"internal/frame":             {},
	"internal/frame/outsider":    {},
	"internal/spool":             {"internal/bounded"},
	"internal/stream":            {},
	"internal/manage":            {"internal/bounded"},
	"internal/manage/micro":      {"internal/manage"},
	"internal/target":            {"internal/redact"},
	"internal/target/targettest": {},
	"internal/redact":            {},
	"internal/web":               {},

	"internal/manage/choria":    {"internal/bounded", "internal/manage"},
	"internal/manage/lifecycle": {},

	"internal/enroll":            {"internal/tlsconf"},
	"internal/enroll/enrolltest": {},

	"internal/tlsconf":         {"internal/bounded"},
	"internal/tlsconf/tlstest": {},

	"internal/exposition": {"internal/frame"},
	"internal/scrape":     {"internal/exposition", "internal/frame", "internal/redact", "internal/scrape/inflate", "internal/target"},
	"internal/poller":     {"internal/exposition", "internal/frame", "internal/scrape", "internal/target"},
	"internal/forward":    {"internal/spool", "internal/stream"},

	"internal/scrape/inflate": {},

	"internal/stream/access":     {"internal/bounded", "internal/stream"},
	"internal/stream/embedded":   {"internal/stream"},
	"internal/stream/jetstream":  {"internal/stream", "internal/stream/access"},
	"internal/stream/streaming":  {"internal/stream", "internal/stream/access"},
	"internal/stream/streamtest": {"internal/stream"},

	"internal/receiver":         {"internal/bounded", "internal/exposition", "internal/frame", "internal/sink", "internal/stream"},
	"internal/sink":             {"internal/frame"},
	"internal/sink/gateway":     {"internal/bounded", "internal/exposition", "internal/frame", "internal/sink"},
	"internal/sink/pushgateway": {"internal/exposition", "internal/frame", "internal/redact", "internal/sink"},
	"internal/sink/remotewrite": {"internal/frame", "internal/redact", "internal/sink"},
}

// fences lists libraries and the only rooms that may import them.
var fences = map[string][]string{
	"github.com/nats-io/nats.go":                              {"internal/manage/micro", "internal/stream/access", "internal/stream/jetstream", "internal/stream/embedded", "internal/stream/streaming", "internal/stream/streamtest"},
	"github.com/nats-io/stan.go":                              {"internal/stream/streaming"},
	"github.com/nats-io/nats-server/":                         {"internal/stream/embedded"},
	"github.com/prometheus/prometheus/model/textparse":        {"internal/exposition"},
	"github.com/prometheus/prometheus/discovery":              {"internal/target", "internal/config"},
	"github.com/prometheus/prometheus/scrape":                 {"internal/target"},
	"github.com/prometheus/common/expfmt":                     {"internal/exposition"},
	"github.com/prometheus/prometheus/promql":                 {"internal/sink/gateway"},
	"github.com/choria-io/":                                   {"internal/manage/choria"},
	"github.com/sirupsen/logrus":                              {"internal/manage/choria"},
	"github.com/oklog/run":                                    {"cmd/prometheus-streams"},
	"github.com/alecthomas/kingpin/":                          {"cmd/prometheus-streams"},
	"github.com/prometheus/client_golang/prometheus/promauto": {},
}

func TestDoors(t *testing.T) {
	rooms := make(map[string]bool)
	eachImport(t, func(room, file, path string) {
		rooms[room] = true
		allowed, known := doors[room]
		if !known {
			t.Errorf("%s: room %q is not in the list of doors", file, room)
			return
		}
		if other, ours := strings.CutPrefix(path, module); ours && !slices.Contains(allowed, other) && !slices.Contains(allowed, "*") {
			t.Errorf("%s: %s must not import %s", file, room, other)
		}
		for library, inside := range fences {
			if !strings.HasPrefix(path, module) && strings.HasPrefix(path+"/", strings.TrimSuffix(library, "/")+"/") && !slices.Contains(inside, room) {
				t.Errorf("%s: %s must not import %s", file, room, path)
			}
		}
	})
	for room := range doors {
		if !rooms[room] && room != "internal/arch" {
			t.Errorf("room %q has no Go files", room)
		}
	}
}

// TestNoInit finds work that happens by importing a room.
func TestNoInit(t *testing.T) {
	eachFile(t, func(room, file string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc init()") {
			t.Errorf("%s: func init()", file)
		}
	})
}

func eachImport(t *testing.T, f func(room, file, path string)) {
	eachFile(t, func(room, file string) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f(room, file, path)
		}
	})
}

func eachFile(t *testing.T, f func(room, file string)) {
	root := filepath.Join("..", "..")
	files := 0
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return nil
			}
			room, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return err
			}
			files++
			f(filepath.ToSlash(room), file)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Fatal("no files found: the test looks in the wrong place")
	}
}
