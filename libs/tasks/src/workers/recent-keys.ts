/** Keys with what was last noted of each; of more than `most` those that were noted longest ago are forgotten. */
export class RecentKeys<V> {
  readonly #most: number
  readonly #values = new Map<string, V>()

  constructor(most: number) {
    this.#most = most
  }

  has(key: string): boolean {
    return this.#values.has(key)
  }

  note(key: string, value: V): void {
    this.#values.delete(key)
    this.#values.set(key, value)
    const [oldest] = this.#values.keys()
    if (this.#values.size > this.#most && oldest !== undefined) this.#values.delete(oldest)
  }

  /** As a map, which changes with it. */
  get all(): ReadonlyMap<string, V> {
    return this.#values
  }
}
