package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/config"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/state"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// pageControl does what the page asks for as the commands do it: by what they leave in the state for the running connector.
type pageControl struct {
	view *view
}

var _ status.Control = (*pageControl)(nil)

// pageWithin bounds what is asked of the state for the page.
const pageWithin = 15 * time.Second

// parts gives the connector's parts; its state must be open.
func (c *pageControl) parts() (*connectorParts, error) {
	p := c.view.parts.Load()
	if p.reader == nil {
		return nil, &status.Refused{Text: "the state is not open yet: this connector waits for another one that has it"}
	}
	return p, nil
}

// Where the text that is looked for may stand in a payload, letters are read whole, few at a time, and not for ever.
const (
	searchPage = 20
	searchMost = 2000
)

func (c *pageControl) Letters(ctx context.Context, q status.LetterQuery) ([]*connector.DeadLetter, int64, error) {
	p, err := c.parts()
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, pageWithin)
	defer cancel()
	f := state.Filter{Class: q.Class, Mapping: q.Mapping, Open: q.Open, After: q.After, Newest: true, Brief: true, Text: q.Text, Limit: q.Limit + 1}
	if q.Payload {
		return searchLetters(ctx, p.reader, f, q)
	}
	letters, err := p.reader.Letters(ctx, f)
	if err != nil || len(letters) <= q.Limit {
		return letters, 0, err
	}
	return letters[:q.Limit], letters[q.Limit-1].ID, nil
}

// searchLetters looks for the text in payloads and changes too.
func searchLetters(ctx context.Context, r *state.Reader, f state.Filter, q status.LetterQuery) (found []*connector.DeadLetter, next int64, err error) {
	byText := f
	byText.Text, f.Text, f.Brief, f.Limit = q.Text, "", false, searchPage
	text := strings.ToLower(q.Text)
	for looked := 0; looked < searchMost; {
		page, err := r.Letters(ctx, f)
		if err != nil || len(page) == 0 {
			return found, 0, err
		}
		ids := make([]int64, len(page))
		for i, l := range page {
			ids[i] = l.ID
		}
		byText.IDs, byText.After, byText.Limit = ids, 0, 0
		named, err := r.Letters(ctx, byText)
		if err != nil {
			return nil, 0, err
		}
		for _, l := range page {
			f.After = l.ID
			if !strings.Contains(strings.ToLower(string(l.Payload)), text) && !strings.Contains(strings.ToLower(string(l.Change)), text) &&
				!slices.ContainsFunc(named, func(n *connector.DeadLetter) bool { return n.ID == l.ID }) {
				continue
			}
			if len(found) == q.Limit {
				return found, found[q.Limit-1].ID, nil
			}
			l.Payload, l.Change = nil, nil
			found = append(found, l)
		}
		looked += len(page)
		if len(page) < searchPage {
			return found, 0, nil
		}
	}
	return found, f.After, nil
}

func (c *pageControl) Letter(ctx context.Context, id int64) (*connector.DeadLetter, error) {
	p, err := c.parts()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pageWithin)
	defer cancel()
	l, err := p.reader.Letter(ctx, id)
	if errors.Is(err, state.ErrNoLetter) {
		err = &status.Refused{Text: fmt.Sprintf("there is no dead letter %d", id)}
	}
	return l, err
}

// mostPicked bounds the letters of one action.
const mostPicked = 500

// pick reads the letters that an action is for. What is not open is refused as a whole: the page is old.
func (c *pageControl) pick(ctx context.Context, ids []int64) (*connectorParts, []picked, error) {
	p, err := c.parts()
	switch {
	case err != nil:
		return nil, nil, err
	case len(ids) == 0 || len(ids) > mostPicked:
		return nil, nil, &status.Refused{Text: fmt.Sprintf("choose 1 to %d dead letters; `tuzhan-cdc deadletters` takes any number", mostPicked)}
	}
	letters, missing, err := (&selection{ids: ids}).pick(ctx, p.reader)
	if err == nil && len(missing) > 0 {
		err = &status.Refused{Text: someOf(missing)}
	}
	return p, letters, err
}

func (c *pageControl) Retry(ctx context.Context, ids []int64, anyway, checked bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, pageWithin)
	defer cancel()
	p, letters, err := c.pick(ctx, ids)
	if err != nil {
		return 0, err
	}
	send, left := sortOut(letters, checked, anyway)
	switch {
	case len(left.uncertain) > 0:
		return 0, &status.Refused{Text: "the platform may have applied these points, and would apply them twice: " + someOf(left.uncertain) + ". Look the customers' points up first; nothing was sent"}
	case len(left.overtaken) > 0:
		return 0, &status.Refused{Text: "newer group relations of the same customers were delivered since: " + someOf(left.overtaken) + ". Nothing was sent"}
	case len(left.orphans) > 0:
		return 0, &status.Refused{Text: "the payload of these points is not known: " + someOf(left.orphans) + ". Find the customer by the commit time, and drop them. Nothing was sent"}
	}
	return len(send), state.AskRetry(ctx, stateLocation(p.cfg), idsOf(send), anyway, checked)
}

func (c *pageControl) Drop(ctx context.Context, ids []int64) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, pageWithin)
	defer cancel()
	p, letters, err := c.pick(ctx, ids)
	if err != nil {
		return 0, err
	}
	if err := state.Drop(ctx, stateLocation(p.cfg), idsOf(letters)); err != nil {
		return 0, err
	}
	closed := 0
	for _, l := range letters { // those that are being sent stay open
		now, err := p.reader.Letter(ctx, l.id)
		if err == nil && now.Resolution == connector.ResolvedDropped {
			closed++
		}
	}
	if closed < len(letters) {
		err = &status.Refused{Text: fmt.Sprintf("%d of %d were dropped: the others are being sent again just now", closed, len(letters))}
	}
	return closed, err
}

func (c *pageControl) Resume(ctx context.Context, mapping string) error {
	return c.ask(ctx, state.Request{What: state.RequestResume, Mapping: mapping})
}

func (c *pageControl) SetAside(ctx context.Context, mapping string) error {
	if mapping == "" {
		return &status.Refused{Text: "name the mapping"}
	}
	return c.ask(ctx, state.Request{What: state.RequestSetAside, Mapping: mapping})
}

// ask leaves a request for the supervisor, if there is something that it ends.
func (c *pageControl) ask(ctx context.Context, q state.Request) error {
	ctx, cancel := context.WithTimeout(ctx, pageWithin)
	defer cancel()
	p, err := c.parts()
	if err != nil {
		return err
	}
	if !c.mayAsk(p, q) {
		return &status.Refused{Text: "there is nothing that this would end any more"}
	}
	q.Created = time.Now()
	return state.Ask(ctx, stateLocation(p.cfg), q)
}

// mayAsk reports whether a mapping is held, or delivery paused, in a way that the request ends.
func (c *pageControl) mayAsk(p *connectorParts, q state.Request) bool {
	if p.pipeline == nil || p.delivery == nil {
		return true // the supervisor looks
	}
	if q.What == state.RequestResume && q.Mapping == "" && p.delivery.Stats().Paused {
		return true
	}
	return slices.ContainsFunc(p.pipeline.HeldMappings(), func(h connector.HeldMapping) bool {
		return (q.Mapping == "" || h.Mapping == q.Mapping) && (q.What == state.RequestSetAside || h.Why != "" && h.Why != connector.HoldMisfit)
	})
}

// statusOptions are those of the server at server.listen.
func statusOptions(cfg *config.Config, v *view, snapshot func() status.Snapshot, log *slog.Logger) status.Options {
	o := status.Options{Address: cfg.Server.Listen, Snapshot: snapshot, Control: &pageControl{view: v}, Log: log}
	if cfg.Server.AdminToken.IsSet() {
		o.AdminToken = cfg.Server.AdminToken.Current
	}
	return o
}
