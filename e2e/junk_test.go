package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// memoryLimit is what a receiver may take at most, whatever it is sent.
const memoryLimit = 400 << 20

// Whatever else is in the stream is counted by reason and dropped, takes no memory to speak of, and does not hold up the
// rest.
func TestJunk(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "max_payload: 8MB")
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: true"))
	good := targets.New(t, "good", 10)
	startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", good))).Ready(t)
	shown := harness.Labels{"job": "edge", "instance": "good"}
	good.WaitShown(t, 15*time.Second, receiver, shown, 0)
	quiet := receiver.PeakMemory()

	conn := server.Connect(t)
	random := rand.New(rand.NewPCG(4, 4))
	// counts are by reason, "" for messages with which it does not matter; all is what must be counted.
	counts, all := map[string]int{}, 0
	junk := func(reason, subject string, messages ...[]byte) {
		t.Helper()
		for _, m := range messages {
			harness.Publish(t, conn, subject, m)
			counts[reason]++
			all++
		}
	}
	evil := subject("evil")
	junk("malformed", evil, nil, []byte("PSB"), []byte("PSS"))
	junk("", evil, []byte("{}"), []byte("{"), []byte(`{"publisher":"evil","Scrape":12}`), gzipBomb())
	for range 200 {
		junk("malformed", evil, randomBytes(random, 1+random.IntN(4096)))
	}
	junk("malformed", evil, randomBytes(random, 4<<20))
	junk("malformed", evil, hugeLengths()...)
	forge := harness.NewForge(t, "evil", 9)
	harness.Publish(t, conn, forge.SchemaSubject(), forge.Schema.Marshal())
	broken(t, forge, random, junk)
	junk("wrong_publisher", subject("other"), forge.Bundle(t, 1))
	junk("wrong_subject", subject("\xff"), forge.Bundle(t, 1))
	junk("malformed", subject("\xff"), []byte("PSB"))
	junk("wrong_publisher", evil, harness.NewForge(t, "site", 3).Bundle(t, 1))

	harness.Wait(t, 20*time.Second, "junk is counted by its reason", func() error {
		page, err := harness.Scrape(receiver.URL + "/metrics")
		if err != nil {
			return err
		}
		const dropped = "prometheus_streams_receiver_dropped_frames_total"
		for reason, want := range counts {
			if got := page.Sum(dropped, harness.Labels{"reason": reason}); reason != "" && int(got) < want {
				return fmt.Errorf("%v counted as %s, want %d", got, reason, want)
			}
		}
		if got := page.Sum(dropped, nil); int(got) != all {
			return fmt.Errorf("%v counted as dropped, want %d", got, all)
		}
		return nil
	})
	good.WaitShown(t, 5*time.Second, receiver, shown, good.Numbers())
	bombs(t, conn, receiver)
	good.WaitShown(t, 5*time.Second, receiver, shown, good.Numbers())
	if peak := receiver.PeakMemory(); peak > memoryLimit {
		t.Errorf("the receiver took %d MiB, at most %d are allowed; %d without junk", peak>>20, memoryLimit>>20, quiet>>20)
	} else {
		t.Logf("the receiver took %d MiB at most, %d without junk", peak>>20, quiet>>20)
	}
	if own := receiver.Metrics(t).Count(harness.Labels{"publisher": "site"}); own == 0 {
		t.Error("the good publisher is not on the receiver's own page")
	}
}

func subject(publisher string) string {
	return stream.Subjects{Topic: "prometheus"}.Frames(publisher, "live")
}

// broken makes messages of good ones by damaging them: all of them are refused by a checksum or as malformed.
func broken(t *testing.T, forge *harness.Forge, random *rand.Rand, junk func(reason, subject string, messages ...[]byte)) {
	t.Helper()
	for range 20 {
		m := forge.Bundle(t, 1)
		m[10+random.IntN(len(m)-10)] ^= 1 << random.IntN(8) // after the magic, the version and the flags
		junk("checksum", forge.Subject(), m)
		m = forge.Bundle(t, 1)
		junk("checksum", forge.Subject(), m[:len(m)-1-random.IntN(10)])
	}
}

// hugeLengths are messages with good checksums that declare more than they have.
func hugeLengths() [][]byte {
	var all [][]byte
	for _, size := range []uint64{1 << 20, 1 << 31, 1 << 40, 1 << 62, 1<<64 - 1} {
		length := binary.AppendUvarint(nil, size)
		for _, head := range []string{
			"",                                     // the publisher's name is huge
			"\x04evil",                             // the lane's
			"\x04evil\x04live12345678\x01\x02",     // an optional field
			"\x04evil\x04live12345678\x01\x00\x81", // a keyframe's target
			"\x04evil\x04live12345678\x01\x00\x81\x01\x01\x02", // its body
		} {
			m := append([]byte("PSB\x02\x00"+head), length...)
			all = append(all, binary.LittleEndian.AppendUint32(m, crc32.Checksum(m, crc32.MakeTable(crc32.Castagnoli))))
		}
	}
	return all
}

// gzipBomb is a message of format 1 whose exposition would be 1 GiB.
func gzipBomb() []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		z.Write(zeros)
	}
	z.Close()
	return []byte(fmt.Sprintf(`{"job":"x","instance":"y","time":%d,"publisher":"evil","Scrape":"%s"}`,
		time.Now().Unix(), base64.StdEncoding.EncodeToString(b.Bytes())))
}

// bombs stores schemas that would be huge once unpacked, or lie about what they are, with bundles that need them, and
// waits until the receiver has given these bundles up.
func bombs(t *testing.T, conn *nats.Conn, receiver *harness.Product) {
	t.Helper()
	const publishers = 10
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := z.EncodeAll(make([]byte, 120<<20), nil)
	lies := z.EncodeAll([]byte(strings.Repeat("x", 1<<10)), nil)
	for i := range publishers {
		forge := harness.NewForge(t, fmt.Sprintf("bomb%d", i), uint64(100+i))
		content, size := zeros, uint64(120<<20)
		switch i % 4 {
		case 1:
			size = 1 << 50
		case 2:
			content, size = lies, 1<<27
		case 3:
			content = zeros[:len(zeros)/2]
		}
		message := binary.AppendUvarint([]byte("PSS\x02\x02"), size)
		harness.Publish(t, conn, forge.SchemaSubject(), append(message, content...))
		for range 5 {
			harness.Publish(t, conn, forge.Subject(), forge.Bundle(t, 1))
			time.Sleep(2 * time.Millisecond)
		}
	}
	harness.Wait(t, 60*time.Second, "bundles whose schema is a bomb are dropped", func() error {
		page, err := harness.Scrape(receiver.URL + "/metrics")
		if err != nil {
			return err
		}
		for i := range publishers {
			name := fmt.Sprintf("bomb%d", i)
			if got := page.Sum("prometheus_streams_receiver_dropped_frames_total", harness.Labels{"publisher": name}); got != 5 {
				return fmt.Errorf("%v frames of %s are dropped, want 5", got, name)
			}
		}
		return nil
	})
	// Nothing of theirs is shown.
	if page, err := receiver.Gateway(""); err != nil || page.Count(harness.Labels{"job": "forged"}) != 0 {
		t.Errorf("a forged target is shown, or nothing: %v", err)
	}
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}
