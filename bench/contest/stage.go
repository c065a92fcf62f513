package contest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/bench/exporter"
	"github.com/choria-io/prometheus-streams/bench/relay"
	"github.com/choria-io/prometheus-streams/bench/sink"
)

// The addresses of the harness. Contestants use 18090 to 18099, 18222 to 18223 and 18429 besides.
const (
	writeAddress   = "127.0.0.1:18200"
	relayAddress   = "127.0.0.1:18201"
	pushAddress    = "127.0.0.1:18202"
	targetsControl = "127.0.0.1:18999"
	sinkControl    = "127.0.0.1:18998"
	floorControl   = "127.0.0.1:18996"
	relayControl   = 18980 // and up
)

// stage is one contestant at work with everything around it.
type stage struct {
	load       Load
	contestant *Contestant
	vars       Vars

	all     []*process // in the order of their start
	procs   []*process // the contestant's
	floor   *process
	relays  []string // URLs of their stats
	targets string   // URL of the targets' stats
}

// Load is what all contestants get.
type Load struct {
	N, M     int
	Interval time.Duration
	BasePort int
	// FloorTargets are the targets of the reference floor that runs beside, to tell how noisy the machine is.
	FloorTargets int
	// Churn is the fraction of the series replaced each minute.
	Churn     float64
	Gzip      bool
	SameShape bool
}

// setUp starts everything; tearDown has to be called even if it fails.
func (s *stage) setUp(ctx context.Context) error {
	if err := s.contestant.writeFiles(s.vars); err != nil {
		return err
	}
	if err := s.startTargets(ctx); err != nil {
		return err
	}
	if err := s.startSink(ctx); err != nil {
		return err
	}
	if err := s.startRelays(ctx); err != nil {
		return err
	}
	if err := s.startFloor(ctx); err != nil {
		return err
	}
	for _, p := range s.contestant.Procs {
		argv, err := expandAll(p.Cmd, s.vars)
		if err != nil {
			return err
		}
		ready, err := expand(p.Ready, s.vars)
		if err != nil {
			return err
		}
		started, err := s.start(ctx, p.Role, p.Name, ready, argv...)
		if err != nil {
			return err
		}
		s.procs = append(s.procs, started)
		if p.Delay != "" {
			d, err := time.ParseDuration(p.Delay)
			if err != nil {
				return err
			}
			if err := sleep(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stage) startTargets(ctx context.Context) error {
	s.targets = "http://" + targetsControl + "/stats"
	every := max(1, int(time.Minute/s.load.Interval))
	_, err := s.start(ctx, "", "_targets", s.targets, s.vars.Self, "targets",
		"-n", strconv.Itoa(s.load.N), "-m", strconv.Itoa(s.load.M), "-base-port", strconv.Itoa(s.load.BasePort),
		"-control", targetsControl, "-churn", fmt.Sprint(s.load.Churn), "-churn-every", strconv.Itoa(every),
		"-gzip="+strconv.FormatBool(s.load.Gzip), "-same-shape="+strconv.FormatBool(s.load.SameShape))
	return err
}

// startSink starts what counts, unless the contestant brings it.
func (s *stage) startSink(ctx context.Context) error {
	address := ""
	switch s.contestant.Arrives {
	case ArrivesWrite:
		address = writeAddress
	case ArrivesPush:
		address = pushAddress
	default:
		return nil
	}
	_, err := s.start(ctx, "", "_"+s.contestant.Arrives, "http://"+sinkControl+"/stats",
		s.vars.Self, s.contestant.Arrives, "-listen", address, "-control", sinkControl)
	return err
}

func (s *stage) startRelays(ctx context.Context) error {
	relays := s.contestant.Relays
	if len(relays) == 0 {
		relays = []Relay{{Listen: relayAddress, To: writeAddress}}
	}
	for i, r := range relays {
		ends, err := expandAll([]string{r.Listen, r.To}, s.vars)
		if err != nil {
			return err
		}
		control := fmt.Sprintf("127.0.0.1:%d", relayControl+i)
		url := "http://" + control + "/stats"
		if _, err := s.start(ctx, "", fmt.Sprintf("_relay-%d", i), url,
			s.vars.Self, "relay", "-listen", ends[0], "-to", ends[1], "-control", control); err != nil {
			return err
		}
		s.relays = append(s.relays, url)
	}
	return nil
}

// startFloor starts the reference floor with targets of its own.
func (s *stage) startFloor(ctx context.Context) error {
	if s.load.FloorTargets == 0 {
		return nil
	}
	n, port := strconv.Itoa(s.load.FloorTargets), strconv.Itoa(s.load.BasePort+s.load.N+10)
	if _, err := s.start(ctx, "", "_floor-targets", "http://"+floorControl+"/stats",
		s.vars.Self, "targets", "-n", n, "-m", strconv.Itoa(s.load.M), "-base-port", port, "-control", floorControl); err != nil {
		return err
	}
	var err error
	s.floor, err = s.start(ctx, "", "_floor", "", s.vars.Self, "floor", "-n", n, "-base-port", port, "-interval", s.load.Interval.String())
	return err
}

func (s *stage) start(ctx context.Context, role, name, ready string, argv ...string) (*process, error) {
	p, err := start(role, name, s.vars.Work, argv)
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, p)
	if err := p.waitReady(ctx, ready); err != nil {
		return nil, fmt.Errorf("%w; see %s", err, filepath.Join(s.vars.Work, name+".log"))
	}
	return p, nil
}

// tearDown ends all processes, the last started first.
func (s *stage) tearDown() {
	for i := len(s.all) - 1; i >= 0; i-- {
		s.all[i].stop()
	}
}

// snapshot is everything that is read at one moment.
type snapshot struct {
	at      time.Time
	cpu     []float64 // of the contestant's processes
	floor   float64
	served  exporter.Stats
	floorBy exporter.Stats
	arrived sink.Stats
	wire    relay.Stats
}

func (s *stage) snapshot() (snap snapshot, err error) {
	snap.at = time.Now()
	for _, p := range s.procs {
		if !p.running() {
			return snap, fmt.Errorf("%s ended: %s; see %s", p.name, p.cmd.ProcessState, filepath.Join(s.vars.Work, p.name+".log"))
		}
		cpu, err := p.cpu()
		if err != nil {
			return snap, err
		}
		snap.cpu = append(snap.cpu, cpu)
	}
	if err := getJSON(s.targets, &snap.served); err != nil {
		return snap, err
	}
	if s.floor != nil {
		if snap.floor, err = s.floor.cpu(); err != nil {
			return snap, err
		}
		if err := getJSON("http://"+floorControl+"/stats", &snap.floorBy); err != nil {
			return snap, err
		}
	}
	for _, url := range s.relays {
		var r relay.Stats
		if err := getJSON(url, &r); err != nil {
			return snap, err
		}
		snap.wire.Up += r.Up
		snap.wire.Down += r.Down
	}
	snap.arrived, err = s.arrivals()
	return snap, err
}

// arrivals asks wherever this contestant's samples are counted.
func (s *stage) arrivals() (st sink.Stats, err error) {
	switch s.contestant.Arrives {
	case ArrivesNowhere:
	case ArrivesCounter:
		var v float64
		v, err = metric(s.contestant.Counter.URL, s.contestant.Counter.Metric)
		st.Samples = int64(v)
	default:
		err = getJSON("http://"+sinkControl+"/stats", &st)
	}
	return st, err
}

func getJSON(url string, v any) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// metric adds up all series of a metric on a page in the text format.
func metric(url, name string) (float64, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", name, url, err)
		}
		sum += v
	}
	return sum, lines.Err()
}

// workFolder makes an empty one for a contestant.
func workFolder(root, name string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}
