export interface Slope {
  /** Per unit of x. */
  readonly value: number
  /** The true one lies within `value` plus or minus this with a confidence of 95 %, as far as the points are independent of each other. */
  readonly margin: number
}

/** The least-squares line through at least three points. */
export function slopeOf(points: readonly (readonly [x: number, y: number])[]): Slope {
  const count = points.length
  if (count < 3) throw new RangeError('a slope takes three points')
  const mean = (pick: 0 | 1): number => points.reduce((sum, point) => sum + point[pick], 0) / count
  const [meanX, meanY] = [mean(0), mean(1)]
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0)
  const value = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / spread
  const rest = points.reduce((sum, [x, y]) => sum + (y - meanY - value * (x - meanX)) ** 2, 0)
  return { value, margin: 1.96 * Math.sqrt(rest / (count - 2) / spread) }
}
