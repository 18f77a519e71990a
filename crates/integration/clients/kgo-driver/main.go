// kgo-driver drives a Kafka-compatible broker with franz-go.
//
//	kgo-driver chaos    ...flags   produce and consume in a group through faults, writing a history
//	kgo-driver exchange ...flags   one client's round: create, produce with every codec, consume, commit
package main

import (
	"fmt"
	"os"
)

func main() {
	commands := map[string]func([]string) error{"chaos": chaos, "exchange": exchange}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: kgo-driver chaos|exchange [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "kgo-driver:", err)
		os.Exit(1)
	}
}
