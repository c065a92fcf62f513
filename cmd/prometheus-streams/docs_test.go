package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// document is what docs/configuration.md says there is: the first cells of its tables.
type document struct{ keys, flags, commands []string }

func readDocument(t *testing.T) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	var d document
	quoted := regexp.MustCompile("`([^`]+)`")
	row := regexp.MustCompile("^\\| `([^`]+)` \\|")
	var blocks []string
	heading := ""
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "## ") {
			heading, blocks = strings.TrimSpace(line[3:]), nil
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				blocks = append(blocks, m[1]+".")
			}
			if blocks == nil {
				blocks = []string{""}
			}
			continue
		}
		m := row.FindStringSubmatch(line)
		switch {
		case m == nil:
		case heading == "Commands":
			d.commands = append(d.commands, m[1])
		case heading == "Flags":
			d.flags = append(d.flags, m[1])
		default:
			for _, b := range blocks {
				d.keys = append(d.keys, b+m[1])
			}
		}
	}
	return d
}

// compare says what only one of two lists has.
func compare(t *testing.T, what string, code, docs []string) {
	t.Helper()
	if len(code) == 0 {
		t.Fatalf("no %s in the code", what)
	}
	for _, one := range code {
		if !slices.Contains(docs, one) {
			t.Errorf("docs/configuration.md lacks the %s %s", what, one)
		}
	}
	for _, one := range docs {
		if !slices.Contains(code, one) {
			t.Errorf("docs/configuration.md has a %s %s that is not in the code", what, one)
		}
	}
}

func TestDocumentation(t *testing.T) {
	docs := readDocument(t)
	compare(t, "key", config.Keys(), docs.keys)

	app, _ := application(&Flags{})
	app.Version("x")
	var flags, commands []string
	model := app.Model()
	add := func(group *kingpin.FlagGroupModel) {
		for _, f := range group.Flags {
			if !f.Hidden {
				flags = append(flags, "--"+f.Name)
			}
		}
	}
	add(model.FlagGroupModel)
	for _, c := range model.FlattenedCommands() {
		add(c.FlagGroupModel)
		if len(c.Commands) == 0 {
			commands = append(commands, c.FullCommand)
		}
	}
	compare(t, "flag", flags, docs.flags)
	compare(t, "command", append(commands, "help"), docs.commands)
}

// TestYAMLInDocs loads every block of YAML in README and docs, and every example. A block that starts with `# role: ROLE`
// is checked for that role too; one that starts with `# file: NAME` belongs to another program.
func TestYAMLInDocs(t *testing.T) {
	docs, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no docs, %v", err)
	}
	block := regexp.MustCompile("(?ms)^ *```yaml\n(.*?)^ *```")
	blocks := 0
	for _, name := range append(docs, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllSubmatchIndex(text, -1) {
			body := string(text[m[2]:m[3]])
			first, _, _ := strings.Cut(body, "\n")
			if strings.HasPrefix(first, "# file: ") {
				continue
			}
			blocks++
			role := config.Role(strings.TrimSpace(strings.TrimPrefix(first, "# role:")))
			if !strings.HasPrefix(first, "# role:") {
				role = ""
			}
			line := strings.Count(string(text[:m[2]]), "\n")
			loads(t, fmt.Sprintf("%s:%d", filepath.Base(name), line), []byte(body), role)
		}
	}
	if blocks < 5 {
		t.Errorf("only %d blocks of YAML found", blocks)
	}
	for name, role := range map[string]config.Role{"quickstart": config.StandaloneRole, "poller": config.PollerRole, "receiver": config.ReceiverRole} {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		loads(t, name+".yaml", text, role)
	}
}

func loads(t *testing.T, name string, text []byte, role config.Role) {
	t.Helper()
	c, warnings, err := config.Parse(name, text)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	if role == "" {
		return
	}
	_, more, err := c.ForRole(role)
	if err != nil || len(warnings)+len(more) > 0 {
		t.Errorf("for a %s: %v %v %v", role, err, warnings, more)
	}
}
