const SIGNAL_NAMES: Readonly<Record<number, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  4: 'SIGILL',
  6: 'SIGABRT',
  7: 'SIGBUS',
  8: 'SIGFPE',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  13: 'SIGPIPE',
  15: 'SIGTERM',
}

/** The name of the signal that an exit code stands for (128 + n for signal n); `null`: for none, or for one without a name. */
export function signalOf(exitCode: number | null): string | null {
  return exitCode === null || exitCode <= 128 ? null : (SIGNAL_NAMES[exitCode - 128] ?? null)
}
