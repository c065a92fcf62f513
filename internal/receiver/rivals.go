package receiver

import "time"

const (
	// rivalsAfter is how long two epochs of a lane have to exist before their turns count: what a poller that was killed
	// had on its way to the stream may be stored behind the first of its successor.
	rivalsAfter = 10 * time.Second
	// rivalsTurns is how often an epoch has to go on after another one before both are taken for live. A stream that lost
	// its end and is given it again makes two turns: to the old epoch and to the new one.
	rivalsTurns = 3
	// rivalsSaid is how often the log repeats it, in the stream's time.
	rivalsSaid = 10 * time.Minute
	// rivalsKept is how many of a lane's latest epochs are told apart.
	rivalsKept = 8
)

// rivals watches the epochs of one publisher's lane for two that live at the same time: two pollers with one identity. The
// lane's epochs share one. It goes by the order and the time in which the stream stored their bundles, whatever order they
// are delivered in. A restart, clean or not, is no rivalry: the old epoch never goes on once the new one has begun, since
// what is left of it in the spool is sent before.
type rivals struct {
	epochs []rivalEpoch
	turn   uint64 // the epoch that stored the newest bundle
	at     time.Time
	turns  int
	said   time.Time
}

type rivalEpoch struct {
	epoch uint64
	began time.Time
}

// stored notes a bundle that the stream did not have before. It gives the epoch that this one lives beside, if two of them
// take turns.
func (r *rivals) stored(epoch uint64, at time.Time) (other uint64, live bool) {
	if at.Before(r.at) {
		return 0, false // it was stored before what has been seen; the turn is not its
	}
	r.at = at
	if epoch == r.turn && len(r.epochs) > 0 {
		return 0, false
	}
	other, r.turn = r.turn, epoch
	mine := r.began(epoch)
	if mine == nil {
		if len(r.epochs) == rivalsKept {
			r.epochs = r.epochs[1:]
		}
		r.epochs = append(r.epochs, rivalEpoch{epoch, at})
		r.turns = 0
		return 0, false
	}
	theirs := r.began(other)
	if theirs == nil || at.Sub(mine.began) < rivalsAfter || at.Sub(theirs.began) < rivalsAfter {
		return 0, false
	}
	r.turns++
	return other, r.turns >= rivalsTurns
}

func (r *rivals) began(epoch uint64) *rivalEpoch {
	for i := range r.epochs {
		if r.epochs[i].epoch == epoch {
			return &r.epochs[i]
		}
	}
	return nil
}

// watch looks whether a lane that got a bundle has a rival.
func (p *Pipeline) watch(l *lane, at time.Time) {
	other, live := l.rivals.stored(l.key.epoch, at)
	if !live {
		return
	}
	p.metrics.concurrent.WithLabelValues(p.Name, p.Metrics.names.known(l.key.publisher)).Inc()
	if !l.rivals.said.IsZero() && at.Sub(l.rivals.said) < rivalsSaid {
		return
	}
	l.rivals.said = at
	second := laneKey{epoch: other}
	p.Logger.Error("two epochs of one publisher go on side by side: two pollers run with one identity, and what they scrape is mixed; "+
		"give each an identity of its own", "publisher", l.key.publisher, "lane", l.key.lane, "from", second.epochText(), "to", l.key.epochText())
}
