// Command suites reads `go test -json` on its standard input and says what ran.
//
//	suites summary LABEL   per package its result, the number of tests, and every skipped test with its reason; what fails in full
//	suites table           what ran on which database with which broker; what did not, and why
//
// It exits with 1 if anything failed, and with 2 if it could not tell.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	ok, err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

const usage = "use: suites summary LABEL, or: suites table [--not-run FILE] [--strict] [--json]"

func run(args []string, in io.Reader, out io.Writer) (ok bool, err error) {
	if len(args) == 0 {
		return false, fmt.Errorf("no command: %s", usage)
	}
	switch args[0] {
	case "summary":
		if len(args) != 2 {
			return false, fmt.Errorf("summary takes a label: %s", usage)
		}
		return summarize(in, out, args[1])
	case "table":
		return tabulate(args[1:], in, out)
	}
	return false, fmt.Errorf("unknown command %q: %s", args[0], usage)
}

// tabulate is the command table.
func tabulate(args []string, in io.Reader, out io.Writer) (ok bool, err error) {
	flags := flag.NewFlagSet("table", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	path := flags.String("not-run", "", "file that names combinations that need not run, with the reason")
	strict := flags.Bool("strict", false, "fail where a combination did not run that the file does not name, or one ran that it names")
	asJSON := flags.Bool("json", false, "print one JSON object")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return false, fmt.Errorf("table: %v: %s", append(flags.Args(), fmt.Sprint(err)), usage)
	}
	var excused []excuse
	if *path != "" {
		if excused, err = readExcuses(*path); err != nil {
			return false, err
		}
	}
	results, err := readResults(in)
	if err != nil {
		return false, err
	}
	t := newTable(matrix(), results, excused, *strict)
	if *asJSON {
		return t.OK, t.writeJSON(out)
	}
	return t.OK, t.write(out)
}
