/** Something that was done to the system. */
export interface Deed {
  /** Milliseconds since 1970. */
  readonly at: number
  /** When its effect was undone; `null`: not yet. */
  until: number | null
  readonly kind: DeedKind
  readonly detail: string
  /** The worker that it was done to. */
  readonly workerId: string | null
}

export type DeedKind =
  | 'service killed'
  | 'service stopped'
  | 'service suspended'
  | 'engine stopped'
  | 'engine killed'
  | 'engine hangs'
  | 'engine connections cut'
  | 'worker killed'
  | 'worker removed'
  | 'worker stopped'
  | 'worker paused'
  | 'database locked'
  | 'network cut'
  | 'network stalled'

/** What was done, in order. */
export class Timeline {
  readonly deeds: Deed[] = []

  /** Notes a deed that begins now; the function that it gives ends it. */
  begin(kind: DeedKind, detail = '', workerId: string | null = null): () => void {
    const deed: Deed = { at: Date.now(), until: null, kind, detail, workerId }
    this.deeds.push(deed)
    return () => {
      deed.until = Date.now()
    }
  }

  /** Those whose effect overlaps the time from `from` to `to`. */
  during(from: number, to: number): readonly Deed[] {
    return this.deeds.filter(({ at, until }) => at <= to && (until ?? Number.POSITIVE_INFINITY) >= from)
  }

  /** For how long since `from` something was out of order, in milliseconds; what overlaps counts twice. */
  outageMs(from: number): number {
    const now = Date.now()
    return this.deeds.reduce(
      (sum, { at, until }) => sum + Math.max(0, (until ?? now) - Math.max(at, from)),
      0,
    )
  }

  count(kind: DeedKind): number {
    return this.deeds.filter((deed) => deed.kind === kind).length
  }

  /** One line each. */
  lines(from = 0, to = Number.POSITIVE_INFINITY): readonly string[] {
    return this.during(from, to).map(({ at, until, kind, detail, workerId }) => {
      const length = until === null ? 'and still is' : `for ${until - at} ms`
      return `${new Date(at).toISOString()} ${kind} ${length} ${detail}${workerId === null ? '' : ` (worker ${workerId})`}`
    })
  }
}
