package exposition

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// describe notes a # HELP, # TYPE or # UNIT entry of the parser.
func (p *pass) describe(e textparse.Entry, parser textparse.Parser) {
	switch e {
	case textparse.EntryType:
		name, typ := parser.Type()
		i := p.familyOf(name)
		if p.families[i].Type != typ {
			p.change(i, describedType).Type = typ
		}
		p.described[i] |= describedType
		p.family, p.typ = i, metricTypeOf(typ)
		p.says |= saysFamily | saysType
	case textparse.EntryHelp:
		name, help := parser.Help()
		i := p.familyOf(name)
		if p.families[i].Help != string(help) {
			p.change(i, describedHelp).Help = string(help)
		}
		p.described[i] |= describedHelp
		p.family = i
		p.says |= saysFamily
	case textparse.EntryUnit:
		name, unit := parser.Unit()
		i := p.familyOf(name)
		if p.families[i].Unit != string(unit) {
			p.change(i, describedUnit).Unit = string(unit)
		}
		p.described[i] |= describedUnit
		p.family = i
		p.says |= saysFamily
	}
}

// familyOf finds a family by its name, or begins it.
func (p *pass) familyOf(name []byte) int32 {
	if p.familyIndex == nil {
		p.families = p.text().Families
		p.familyIndex = make(map[string]int32, len(p.families))
		for i := range p.families {
			p.familyIndex[p.families[i].Name] = int32(i)
		}
	}
	i, ok := p.familyIndex[string(name)]
	if !ok {
		p.copyFamilies()
		i = int32(len(p.families))
		f := frame.Family{Name: string(name), Type: model.MetricTypeUnknown}
		p.families = append(p.families, f)
		p.familyIndex[f.Name] = i
	}
	for len(p.described) < len(p.families) {
		p.described = append(p.described, 0)
	}
	return i
}

// change gives the family to write to. What is described twice, differently, changes with every exposition.
func (p *pass) change(i int32, what described) *frame.Family {
	if p.described[i]&what != 0 {
		p.conflict = true
	}
	p.copyFamilies()
	return &p.families[i]
}

// copyFamilies makes the families the pass's own before they are written to: the schema's are shared.
func (p *pass) copyFamilies() {
	if !p.ownFamilies {
		p.families = slices.Clone(p.families)
		p.ownFamilies = true
	}
}

// redescribed tells whether a family of the schema is described otherwise than there.
func (p *pass) redescribed() bool {
	if !p.ownFamilies {
		return false
	}
	old := p.text().Families
	return !slices.Equal(p.families[:len(old)], old)
}
