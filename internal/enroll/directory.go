package enroll

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// The files that belong to the CA.
const (
	caFile  = "certs/ca.pem"
	crlFile = "crl.pem"
)

// The modes of Puppet 7.
const (
	topMode  os.FileMode = 0o771
	fileMode os.FileMode = 0o644
	keyMode  os.FileMode = 0o640
)

// folders are those that Puppet 7 makes. Some stay empty.
var folders = []struct {
	name string
	mode os.FileMode
}{
	{"certs", 0o755}, {"certificate_requests", 0o755}, {"public_keys", 0o755}, {"private", 0o750}, {"private_keys", 0o750},
}

// leftover begins the names of files that were not finished.
const leftover = ".enroll-"

// directory is an ssl directory. No name leads out of it, by symbolic links neither. While it is open no other run has it.
type directory struct {
	path, identity string
	root           *os.Root // nil: not there yet
	lock           *os.File
	owner          *owner // of what is made; nil: who we are
}

// openDirectory opens the directory if it is there. Whether one can write to it, or could make it, shows now.
func openDirectory(path, identity string) (*directory, error) {
	d := &directory{path: path, identity: identity}
	err := d.open()
	if err == nil {
		err = probe(path)
	} else if errors.Is(err, os.ErrNotExist) {
		err = probe(above(path))
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *directory) open() error {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return fmt.Errorf("the directory %s: %w", d.path, cause(err))
	}
	d.root = root
	if d.lock, err = root.Open("."); err != nil {
		return fmt.Errorf("the directory %s: %w", d.path, cause(err))
	}
	if err := lockFile(d.lock); err != nil {
		return fmt.Errorf("the directory %s is in use by another enrolment: %w", d.path, err)
	}
	info, err := d.lock.Stat()
	if err != nil {
		return fmt.Errorf("the directory %s: %w", d.path, cause(err))
	}
	d.owner = ownerOf(info)
	d.sweep()
	return nil
}

func (d *directory) close() {
	if d.lock != nil {
		_ = d.lock.Close()
	}
	if d.root != nil {
		_ = d.root.Close()
	}
}

// above is the nearest folder over a path that is there.
func above(path string) string {
	for {
		parent := filepath.Dir(path)
		if _, err := os.Stat(parent); err == nil || parent == path {
			return parent
		}
		path = parent
	}
}

// probe tells whether one can write into a folder.
func probe(folder string) error {
	file, err := os.CreateTemp(folder, leftover)
	if err != nil {
		return fmt.Errorf("%s cannot be written to: %w", folder, cause(err))
	}
	_ = file.Close()
	return os.Remove(file.Name())
}

// sweep removes what a run that was killed did not finish.
func (d *directory) sweep() {
	for _, folder := range []string{".", "certs", "certificate_requests", "private_keys"} {
		entries, _ := fs.ReadDir(d.root.FS(), folder)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), leftover) {
				_ = d.root.Remove(path.Join(folder, e.Name()))
			}
		}
	}
}

// layOut makes what is missing of the directory and its folders.
func (d *directory) layOut() error {
	if d.root == nil {
		if err := os.MkdirAll(filepath.Dir(filepath.Clean(d.path)), 0o755); err != nil {
			return fmt.Errorf("make %s: %w", filepath.Dir(d.path), cause(err))
		}
		if err := os.Mkdir(d.path, topMode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make %s: %w", d.path, cause(err))
		}
		if err := os.Chmod(d.path, topMode); err != nil { // Mkdir heeds the umask
			return fmt.Errorf("make %s: %w", d.path, cause(err))
		}
		if err := d.open(); err != nil {
			return err
		}
	}
	for _, f := range folders {
		err := d.root.Mkdir(f.name, f.mode)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = d.root.Chmod(f.name, f.mode)
		}
		if err == nil && d.owner != nil {
			err = d.root.Lchown(f.name, d.owner.uid, d.owner.gid)
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", d.full(f.name), cause(err))
		}
	}
	return nil
}

func (d *directory) certificate() string { return "certs/" + d.identity + ".pem" }
func (d *directory) key() string         { return "private_keys/" + d.identity + ".pem" }
func (d *directory) request() string     { return "certificate_requests/" + d.identity + ".pem" }

// full is the path of a file, for messages.
func (d *directory) full(name string) string { return filepath.Join(d.path, name) }

// read reads a file that has at most limit bytes.
func (d *directory) read(name string, limit int64) ([]byte, error) {
	if d.root == nil {
		return nil, fmt.Errorf("%s: %w", d.full(name), os.ErrNotExist)
	}
	file, err := d.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.full(name), cause(err))
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.full(name), cause(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", d.full(name), limit)
	}
	return data, nil
}

// write puts a file in place, whole or not at all.
func (d *directory) write(name string, data []byte, mode os.FileMode) error {
	temporary := path.Join(path.Dir(name), leftover+rand.Text())
	err := d.fill(temporary, data, mode)
	if err == nil {
		err = d.root.Rename(temporary, name)
	}
	if err != nil {
		_ = d.root.Remove(temporary)
		return fmt.Errorf("write %s: %w", d.full(name), cause(err))
	}
	if folder, err := d.root.Open(path.Dir(name)); err == nil { // not every system can
		_ = folder.Sync()
		_ = folder.Close()
	}
	return nil
}

func (d *directory) fill(name string, data []byte, mode os.FileMode) error {
	file, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Chmod(mode)
	}
	if err == nil && d.owner != nil {
		err = file.Chown(d.owner.uid, d.owner.gid)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// forget removes a file that is of no use any more.
func (d *directory) forget(name string) { _ = d.root.Remove(name) }

// cause is the error without the operation and the path, which the caller names.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}
