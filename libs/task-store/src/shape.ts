/** Checks that tell whether a value, parsed from a column, is what was written there. The database is a boundary as any other. */
export type Check<T> = (value: unknown) => value is T

export const text: Check<string> = (value): value is string => typeof value === 'string'
export const number: Check<number> = (value): value is number => Number.isFinite(value)
export const boolean: Check<boolean> = (value): value is boolean => typeof value === 'boolean'

export function orNull<T>(check: Check<T>): Check<T | null> {
  return (value): value is T | null => value === null || check(value)
}

export function either<A, B>(first: Check<A>, second: Check<B>): Check<A | B> {
  return (value): value is A | B => first(value) || second(value)
}

export function oneOf<const T extends string>(...values: readonly T[]): Check<T> {
  const known = new Set<unknown>(values)
  return (value): value is T => known.has(value)
}

export function listOf<T>(check: Check<T>): Check<readonly T[]> {
  return (value): value is readonly T[] => Array.isArray(value) && value.every(check)
}

export function recordOf<T>(check: Check<T>): Check<Readonly<Record<string, T>>> {
  return (value): value is Readonly<Record<string, T>> => isRecord(value) && Object.values(value).every(check)
}

/** An object with these fields; the compiler sees to it that none of `T` is forgotten. */
export function shape<T extends object>(fields: { readonly [K in keyof T]-?: Check<T[K]> }): Check<T> {
  const entries = Object.entries<(value: unknown) => boolean>(fields)
  return (value): value is T => isRecord(value) && entries.every(([name, check]) => check(value[name]))
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
