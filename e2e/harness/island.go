package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Island is a network namespace of the test's own that is reached over links which lose everything when they are down,
// without a word to either end. It needs root.
type Island struct {
	process *Process
	links   []string
}

// NewIsland makes one with so many links.
func NewIsland(t testing.TB, links int) *Island {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("making a network namespace needs root")
	}
	i := &Island{process: Start(t, "island", "unshare", "--net", "sleep", "infinity")}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	Wait(t, requestLimit, "the namespace is there", func() error {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", i.pid())); err != nil || ns == ours {
			return fmt.Errorf("%s, %v", ns, err)
		}
		return nil
	})
	for n := range links {
		here, there := fmt.Sprintf("psh%d-%d", i.pid()%100000, n), fmt.Sprintf("pst%d-%d", i.pid()%100000, n)
		command(t, "ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", strconv.Itoa(i.pid()))
		t.Cleanup(func() { exec.Command("ip", "link", "del", here).Run() })
		command(t, "ip", "addr", "add", i.address(n, 1)+"/30", "dev", here)
		command(t, "ip", "link", "set", here, "up")
		command(t, i.inside("ip", "addr", "add", i.address(n, 2)+"/30", "dev", there)...)
		command(t, i.inside("ip", "link", "set", there, "up")...)
		i.links = append(i.links, there)
	}
	return i
}

// connect adds a link from one island to another; the addresses of its ends are of this island's networks.
func (i *Island) connect(t testing.TB, other *Island) (here, there string) {
	t.Helper()
	n := len(i.links)
	mine, theirs := fmt.Sprintf("psi%d-%d", i.pid()%100000, n), fmt.Sprintf("psj%d-%d", i.pid()%100000, n)
	command(t, i.inside("ip", "link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", strconv.Itoa(other.pid()))...)
	for end, link := range []struct {
		on   *Island
		name string
	}{{i, mine}, {other, theirs}} {
		command(t, link.on.inside("ip", "addr", "add", i.address(n, end+1)+"/30", "dev", link.name)...)
		command(t, link.on.inside("ip", "link", "set", link.name, "up")...)
		link.on.links = append(link.on.links, link.name)
	}
	return i.address(n, 1), i.address(n, 2)
}

func (i *Island) pid() int { return i.process.cmd.Process.Pid }

// address of an end of a link; networks of tests that run side by side differ by the process that holds the namespace.
func (i *Island) address(link, end int) string {
	return fmt.Sprintf("10.%d.%d.%d", 64+i.pid()/256%64, i.pid()%256, 4*link+end)
}

// Address is the island's at the end of a link.
func (i *Island) Address(link int) string { return i.address(link, 2) }

// Here is the address of our end of a link.
func (i *Island) Here(link int) string { return i.address(link, 1) }

// StartProductOn starts "prometheus-streams standalone" on an island, with an /etc/resolv.conf of its own; its pages are
// on the first link.
func StartProductOn(t testing.TB, b *Builds, i *Island, resolv string, port int, config string, flags ...string) *Product {
	t.Helper()
	address := fmt.Sprintf("%s:%d", i.Address(0), port)
	p := &Product{Config: filepath.Join(t.TempDir(), "standalone.yaml"), URL: "http://" + address, before: i.resolving(t, resolv, nil)}
	p.Write(t, config)
	p.argv = append([]string{b.Product(t), "standalone", "--config", p.Config, "--web.listen-address", address}, flags...)
	p.Restart(t)
	return p
}

// StartPrometheusOn starts a Prometheus on an island with a configuration file that stays where it is, with an
// /etc/resolv.conf of its own; its API is on the first link.
func StartPrometheusOn(t testing.TB, i *Island, resolv string, port int, path string, flags ...string) *Prometheus {
	t.Helper()
	address := fmt.Sprintf("%s:%d", i.Address(0), port)
	p := &Prometheus{URL: "http://" + address}
	p.argv = i.resolving(t, resolv, append([]string{Server(t, "prometheus"), "--config.file=" + path,
		"--storage.tsdb.path=" + filepath.Join(t.TempDir(), "tsdb"), "--web.listen-address=" + address}, flags...))
	p.Restart(t)
	return p
}

// resolving is a command line that runs another on the island with that /etc/resolv.conf.
func (i *Island) resolving(t testing.TB, resolv string, argv []string) []string {
	t.Helper()
	return append(i.inside(Resolving(t, resolv)...), argv...)
}

// Resolving is the beginning of a command line that runs another with an /etc/resolv.conf of its own. It needs root.
func Resolving(t testing.TB, resolv string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(resolv), 0o644); err != nil {
		t.Fatal(err)
	}
	// A mount namespace, so that the file is seen by this process alone.
	const mounted = `mount --make-rprivate / && mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && shift && exec "$@"`
	return []string{"unshare", "--mount", "sh", "-c", mounted, "sh", file}
}

func (i *Island) inside(argv ...string) []string {
	return append([]string{"nsenter", "--net=" + fmt.Sprintf("/proc/%d/ns/net", i.pid()), "--"}, argv...)
}

// Down lets a link lose all packets until Up.
func (i *Island) Down(t testing.TB, link int) {
	t.Helper()
	command(t, i.inside("ip", "link", "set", i.links[link], "down")...)
}

// Up undoes Down.
func (i *Island) Up(t testing.TB, link int) {
	t.Helper()
	command(t, i.inside("ip", "link", "set", i.links[link], "up")...)
}

// StartNATS starts a nats-server on the island, on all its links.
func (i *Island) StartNATS(t testing.TB, port int) *NATS {
	t.Helper()
	return i.startNATS(t, "0.0.0.0", port, "")
}

// startNATS starts one that listens on an address; more is added to its configuration file as it is.
func (i *Island) startNATS(t testing.TB, listen string, port int, more string) *NATS {
	t.Helper()
	dir := t.TempDir()
	n := &NATS{
		URL: fmt.Sprintf("nats://%s:%d", i.Address(0), port), binary: Server(t, "nats-server"), config: filepath.Join(dir, "nats.conf"),
		base: fmt.Sprintf("listen: \"%s:%d\"\njetstream { store_dir: %q }\n", listen, port, filepath.Join(dir, "jetstream")), before: i.inside(),
	}
	n.Write(t, more)
	n.Restart(t)
	return n
}

// SmallDisk is a directory on a disk of its own of so many bytes. It needs root.
func SmallDisk(t testing.TB, bytes int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting a disk needs root")
	}
	dir := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", bytes), "tmpfs", dir)
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

func command(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}
