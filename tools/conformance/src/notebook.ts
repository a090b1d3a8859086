import { type Check, type Figure, type Finding, type FindingCode, FINDINGS } from './findings.ts'

/** Takes down what is found out about a worker, check by check. */
export class Notebook {
  readonly checks: Check[] = []
  readonly figures: Figure[] = []
  readonly #told: (check: Check) => void
  #findings: Finding[] = []
  #name = ''

  /** `told` hears of each check when it is over. */
  constructor(told: (check: Check) => void) {
    this.#told = told
  }

  /** Looks at one thing. `look` may say why it says nothing. */
  async check(name: string, look: () => Promise<string | null>): Promise<void> {
    this.#name = name
    this.#findings = []
    const notJudged = await look()
    const check = { name, notJudged, findings: this.#findings }
    this.checks.push(check)
    this.#told(check)
  }

  /** The same thing is said once. */
  find(code: FindingCode, what: string): void {
    if ([...this.checks, { findings: this.#findings }].some(({ findings }) => isKnown(findings, code, what)))
      return
    this.#findings.push({ code, check: this.#name, what, ...FINDINGS[code] })
  }

  /** Keeps how long something took; the first under each name stays. */
  figure(name: string, ms: number): void {
    if (!this.figures.some((figure) => figure.name === name))
      this.figures.push({ name, ms: Math.max(0, Math.round(ms)) })
  }

  /** The current check has found nothing (yet). */
  get isClean(): boolean {
    return this.#findings.every(({ severity }) => severity === 'advice')
  }
}

function isKnown(findings: readonly Finding[], code: FindingCode, what: string): boolean {
  return findings.some((finding) => finding.code === code && finding.what === what)
}
