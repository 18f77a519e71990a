package main

import (
	"bufio"
	"fmt"
	"os"
	"sync"
)

// history writes events down in the order in which this process saw them, one JSON object a line.
type history struct {
	mu sync.Mutex
	f  *os.File
	w  *bufio.Writer
}

func newHistory(path string) (*history, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &history{f: f, w: bufio.NewWriterSize(f, 1<<16)}, nil
}

func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(h.w, format, args...)
	h.w.WriteByte('\n')
}

func (h *history) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.w.Flush(); err != nil {
		return err
	}
	return h.f.Close()
}
