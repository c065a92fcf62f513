package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func TestDumpBundle(t *testing.T) {
	message := frame.AppendBundle(nil, frame.Header{Publisher: "edge", Lane: "live", Epoch: 0xabc, Seq: 7}, nil)
	var out strings.Builder
	if err := dumpMessage(&out, message); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"edge", "live", "abc", "7"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, &out)
		}
	}
	for at := range message {
		damaged := bytes.Clone(message)
		damaged[at] ^= 0x40
		if err := dumpMessage(&out, damaged); err == nil {
			t.Errorf("a bundle damaged at byte %d is read without an error", at)
		}
	}
}

// TestDumpBomb: a small message of format 1 that unpacks to more than its bound ends with an error.
func TestDumpBomb(t *testing.T) {
	var bomb bytes.Buffer
	zip, err := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range maxBody/len(zeros) + 1 {
		if _, err := zip.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	message := `{"job":"a","instance":"b","time":1,"Scrape":"` + base64.StdEncoding.EncodeToString(bomb.Bytes()) + `"}`
	var out strings.Builder
	if err := dumpMessage(&out, []byte(message)); err == nil || !strings.Contains(err.Error(), "more than 268435456 bytes") {
		t.Errorf("error %v", err)
	}
}

// FuzzDump: whatever the bytes, they are printed or refused.
func FuzzDump(f *testing.F) {
	f.Add([]byte(`{"job":"a","Scrape":"aGVsbG8="}`))
	f.Add(frame.AppendBundle(nil, frame.Header{Publisher: "edge", Lane: "live", Epoch: 1, Seq: 1}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out strings.Builder
		if err := dumpMessage(&out, data); err == nil && out.Len() == 0 {
			t.Error("nothing printed and no error")
		}
	})
}
